"""What a run leaves behind: the experiment's folder, its tables, what identifies it."""

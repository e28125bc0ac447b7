"""What a user calls: the commands and how they read their words."""

"""What a person sees of a run: progress, TensorBoard, plain text tables."""

"""A run from options to results: the training loop and all that takes part in it."""

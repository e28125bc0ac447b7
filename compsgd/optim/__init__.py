"""Optimizers as torch.optim has them."""

"""Combining the ballots of a round (design, section 2, step 4)."""

import torch
from torch import Tensor

from compsgd.alphabet import max_level


def sum_dtype(num_bits: int, num_workers: int) -> torch.dtype:
    """The narrowest integer type that holds the sum of so many levels, and the vote's |S| + n."""
    largest_sum = num_workers * (max_level(num_bits) + 1)
    return torch.int16 if largest_sum < 1 << 15 else torch.int32


def vote(level_sum: Tensor, num_voters: int) -> Tensor:
    """The mean level rounded away from zero, sign(S) * ceil(|S| / n): majority, as one level.

    Args:
        level_sum: S, integers, shape (numel,).
        num_voters: n >= 1, how many workers' levels were added up.

    Returns:
        the type and shape of level_sum, in the same alphabet {-L..L} as the ballots.
    """
    magnitude = level_sum.abs().add_(num_voters - 1)
    magnitude = torch.div(magnitude, num_voters, rounding_mode="floor")
    return magnitude.mul_(level_sum.sign())


def mean(level_sum: Tensor, num_voters: int) -> Tensor:
    """The exact mean S / n of levels, or of gradients; float32, shape (numel,)."""
    # By a tensor: some devices multiply by the reciprocal of a number, which rounds twice.
    return level_sum.to(torch.float32) / torch.tensor(float(num_voters), device=level_sum.device)

"""Combining the ballots of a round (design, section 2, step 4)."""

import torch
from torch import Tensor

# The most workers for which the float32 arithmetic below is exact.
MAX_WORKERS = 1 << 14


def vote(level_sum: Tensor, num_voters: int | Tensor) -> Tensor:
    """The mean level rounded away from zero, sign(S) * ceil(|S| / n): majority, as one level.

    Args:
        level_sum: S, the sum of levels of at most 8 bits; integers of any shape.
        num_voters: n from 1 to MAX_WORKERS, how many workers' levels were added up.

    Returns:
        float32, the shape of level_sum; integers in the same alphabet {-L..L} as the ballots.
    """
    total = level_sum.to(torch.float32)
    # (|S| + n - 1) / n rounded down, with a half more so that no quotient is near an integer: the
    # rounding of the reciprocal then cannot matter.
    share = (total.abs() + (num_voters - 0.5)) * (1.0 / num_voters)
    return share.floor() * total.sign()


def mean(level_sum: Tensor, num_voters: int | Tensor) -> Tensor:
    """The exact mean S / n of levels, or of gradients; float32, the shape of level_sum."""
    if not isinstance(num_voters, Tensor):
        # Some devices multiply by the reciprocal of a number, which rounds twice.
        num_voters = torch.tensor(float(num_voters), dtype=torch.float32, device=level_sum.device)
    return level_sum.to(torch.float32) / num_voters.to(torch.float32)


def round_away(mean_level: Tensor) -> Tensor:
    """A mean of levels as the vote on it; the same type and shape."""
    return mean_level.abs().ceil() * mean_level.sign()

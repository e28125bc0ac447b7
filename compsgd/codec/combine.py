"""Ballots to one result: the vote, or the exact mean (design, section 2, step 4).

Another way to combine is another class with these methods, and a line in COMBINES.
"""

from typing import Protocol

import torch
from torch import Tensor

from compsgd.checks import check_choice
from compsgd.codec.alphabet import Alphabet, sum_alphabet

# The most workers for which the float32 arithmetic below is exact.
MAX_WORKERS = 1 << 14


class Combine(Protocol):
    """How the levels of an element's voters become one result, and that an update.

    Attributes:
        breaks_ties: whether a result of 0 is broken where zeros of ballots are.
    """

    @property
    def breaks_ties(self) -> bool: ...

    def alphabet(self, ballots: Alphabet, num_workers: int) -> Alphabet:
        """The alphabet of results, from that of the ballots."""

    def result(self, level_sum: Tensor, num_voters: Tensor) -> Tensor:
        """The results, whole numbers in the alphabet.

        Args:
            level_sum: the sum of the voters' levels; int32 of any shape.
            num_voters: float32 scalar.

        Returns:
            integers or float32, the shape of level_sum.
        """

    def update(self, results: Tensor, num_voters: int) -> Tensor:
        """What a round moves parameters by before lr; float32 of any shape, from and to."""


class Vote:
    """The majority: the mean level rounded away from zero, one level of the ballots' alphabet."""

    breaks_ties = True

    def alphabet(self, ballots: Alphabet, num_workers: int) -> Alphabet:
        return ballots

    def result(self, level_sum: Tensor, num_voters: Tensor) -> Tensor:
        return vote(level_sum, num_voters)

    def update(self, results: Tensor, num_voters: int) -> Tensor:
        return results


class ExactMean:
    """The mean of the levels; what travels is their sum, in an alphabet of its own."""

    breaks_ties = False

    def alphabet(self, ballots: Alphabet, num_workers: int) -> Alphabet:
        return sum_alphabet(ballots, num_workers)

    def result(self, level_sum: Tensor, num_voters: Tensor) -> Tensor:
        return level_sum

    def update(self, results: Tensor, num_voters: int) -> Tensor:
        return mean(results, num_voters)


VOTE = Vote()
MEAN = ExactMean()
COMBINES: dict[str, Combine] = {"vote": VOTE, "mean": MEAN}


def combine_named(name: str) -> Combine:
    """Raises SettingError for a name that is not in COMBINES."""
    return COMBINES[check_choice("combine", name, COMBINES)]


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

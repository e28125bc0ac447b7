"""How many elements of each update had which level (design, section 2)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compsgd.codec.alphabet import max_level
from compsgd.codec.combine import round_away


class BinUsage:
    """Counts by step.

    Attributes:
        by_step: one int64 array a step, shape (2^num_bits + 1,): levels -L, ..., L.
    """

    def __init__(self, num_bits: int) -> None:
        self._largest = max_level(num_bits)
        self.by_step: list[npt.NDArray[np.int64]] = []

    @property
    def num_bins(self) -> int:
        """Of a step's counts."""
        return 2 * self._largest + 1

    def begin(self, numel: int) -> None:
        """A step in which none of so many elements has been moved yet: what nobody votes on stays
        where it is."""
        counts = np.zeros(self.num_bins, dtype=np.int64)
        counts[self._largest] = numel
        self.by_step.append(counts)

    def add(self, update: Tensor) -> None:
        """Counts some of its elements; levels, or means of them, which count rounded away from
        zero."""
        bins = round_away(update).to(torch.int64) + self._largest
        found = torch.bincount(bins, minlength=self.num_bins).cpu().numpy()
        self.by_step[-1] += found
        self.by_step[-1][self._largest] -= update.numel()

    def as_lists(self) -> list[list[int]]:
        """For a state_dict: a distributed checkpoint insists on the sizes of tensors."""
        return [counts.tolist() for counts in self.by_step]

    def restore(self, counts: Sequence[Sequence[int]]) -> None:
        """Takes over what `as_lists` returned."""
        self.by_step = [np.array(one, dtype=np.int64) for one in counts]

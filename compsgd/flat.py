"""The flat vector of all parameters in model order: who stands where.

Range, ballots, random bits and the vote all count elements from the start of this vector.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, TypeVar

Label = TypeVar("Label", bound=Hashable)


class Run(NamedTuple):
    """Neighbouring elements start..end-1."""

    start: int
    end: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.end)

    @property
    def numel(self) -> int:
        return self.end - self.start

    def shifted(self, by: int) -> "Run":
        return Run(self.start + by, self.end + by)

    def within(self, other: "Run") -> "Run":
        """The part that lies in another run, perhaps of no elements."""
        start = min(max(self.start, other.start), other.end)
        return Run(start, max(start, min(self.end, other.end)))


def shard_numel(numel: int, num_shards: int) -> int:
    """Elements of a shard; the last ones may hold fewer."""
    return -(-numel // num_shards)


def shard_run(numel: int, num_shards: int, shard: int) -> Run:
    """The elements of one shard; none where the vector is too short for so many."""
    size = shard_numel(numel, num_shards)
    return Run(min(shard * size, numel), min((shard + 1) * size, numel))


class FlatLayout:
    """Positions of parameter tensors in their flat vector."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """Args: sizes: elements of each parameter, in model order."""
        self.runs: list[Run] = []
        start = 0
        for size in sizes:
            self.runs.append(Run(start, start + size))
            start += size
        self.numel = start

    def labelled_runs(self, labels: Sequence[Label]) -> Iterator[tuple[Label, Run]]:
        """Neighbouring parameters with equal labels, joined: usually one run over everything."""
        joined: tuple[Label, Run] | None = None
        for label, run in zip(labels, self.runs, strict=True):
            if joined is not None and joined[0] == label:
                joined = (label, Run(joined[1].start, run.end))
                continue
            if joined is not None:
                yield joined
            joined = (label, run)
        if joined is not None:
            yield joined

    def parts_of(self, run: Run) -> Iterator[tuple[int, Run]]:
        """The parameters that have elements in a run: their indices, and those elements."""
        first = bisect_right(self.runs, run.start, key=lambda own: own.end)
        end = bisect_left(self.runs, run.end, key=lambda own: own.start)
        for index in range(first, end):
            part = self.runs[index].within(run)
            if part.numel:
                yield index, part

    def absent_runs(self, present: Sequence[bool]) -> list[Run]:
        return [run for here, run in self.labelled_runs(present) if not here]

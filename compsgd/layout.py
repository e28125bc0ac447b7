"""The flat vector of all parameters in model order: who stands where, and memory for it.

Range, ballots, random bits and the vote all count elements from the start of this vector.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Label = TypeVar("Label", bound=Hashable)


class Span(NamedTuple):
    """Neighbouring elements start..end-1."""

    start: int
    end: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.end)

    @property
    def numel(self) -> int:
        return self.end - self.start

    def shifted(self, by: int) -> "Span":
        return Span(self.start + by, self.end + by)

    def within(self, other: "Span") -> "Span":
        """The part that lies in another span, perhaps of no elements."""
        start = min(max(self.start, other.start), other.end)
        return Span(start, max(start, min(self.end, other.end)))

    def chunks(self, numel: int) -> "Iterator[Span]":
        """Cut into spans of at most so many elements."""
        for start in range(self.start, self.end, numel):
            yield Span(start, min(start + numel, self.end))


class Voters(NamedTuple):
    """A span of elements and the workers that vote on it: a parameter without a gradient sits out,
    and so may a whole worker."""

    span: Span
    workers: tuple[int, ...]


def voters_within(voters: Sequence[Voters], span: Span) -> list[Voters]:
    """The parts of voters' spans that lie in a span."""
    parts = [Voters(one.span.within(span), one.workers) for one in voters]
    return [part for part in parts if part.span.numel]


def shard_numel(numel: int, num_shards: int) -> int:
    """Elements of a shard; the last ones may hold fewer."""
    return -(-numel // num_shards)


def shard_span(numel: int, num_shards: int, shard: int) -> Span:
    """The elements of one shard; none where the vector is too short for so many."""
    size = shard_numel(numel, num_shards)
    return Span(min(shard * size, numel), min((shard + 1) * size, numel))


class FlatLayout:
    """Positions of parameter tensors in their flat vector.

    Attributes:
        spans: of each parameter, in model order.
        numel: elements of all of them.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        """Args: sizes: elements of each parameter, in model order."""
        self.spans: list[Span] = []
        start = 0
        for size in sizes:
            self.spans.append(Span(start, start + size))
            start += size
        self.numel = start

    def labelled_spans(self, labels: Sequence[Label]) -> list[tuple[Label, Span]]:
        """Neighbouring parameters with equal labels, joined: usually one span over everything."""
        joined: list[tuple[Label, Span]] = []
        for label, span in zip(labels, self.spans, strict=True):
            if joined and joined[-1][0] == label:
                joined[-1] = (label, Span(joined[-1][1].start, span.end))
            else:
                joined.append((label, span))
        return joined

    def first_ending_behind(self, place: int) -> int:
        """The index of the first parameter that ends behind a place in the vector."""
        return bisect_right(self.spans, place, key=lambda own: own.end)

    def parts_of(self, span: Span) -> Iterator[tuple[int, Span]]:
        """The parameters that have elements in a span: their indices, and those elements."""
        first = bisect_right(self.spans, span.start, key=lambda own: own.end)
        end = bisect_left(self.spans, span.end, key=lambda own: own.start)
        for index in range(first, end):
            part = self.spans[index].within(span)
            if part.numel:
                yield index, part


class Workspace:
    """Memory that is kept from round to round, since new memory is slow: buffers that grow to what
    is asked of them, one for each name and type.

    Whoever works one after another on one device can share one.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    @property
    def size_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def take(self, name: str, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Uninitialised, shape (numel,); the next call of that name hands out the same memory."""
        kept = self._buffers.get((name, dtype))
        if kept is None or kept.numel() < numel or kept.device != device:
            kept = self._buffers[name, dtype] = torch.empty(numel, dtype=dtype, device=device)
        return kept[:numel]

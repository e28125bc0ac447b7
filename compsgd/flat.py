"""The flat vector of all parameters in model order: who stands where.

Range, ballots, random bits and the vote all count elements from the start of this vector.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from compsgd.errors import CompsgdError

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

    def gather_gradients(self, parameters: Sequence[Tensor], device: torch.device) -> Tensor:
        """Every `.grad` in one flat float32 vector, 0 where there is none: the buffer that they
        are views of in this order (`compsgd.gradients`), or else a copy."""
        buffer = self._common_buffer(parameters)
        if buffer is not None:
            return buffer
        flat = torch.empty(self.numel, dtype=torch.float32, device=device)
        for parameter, run in zip(parameters, self.runs, strict=True):
            target = flat[run.slice]
            if parameter.grad is None:
                target.zero_()
            else:
                target.view(parameter.shape).copy_(_dense_real(parameter.grad))
        return flat

    def first_non_finite(self, flat: Tensor) -> int | None:
        """Index of the first parameter whose elements are not all finite, or None."""
        # One infinity or NaN makes a sum that is not finite, and so, rarely, do large numbers.
        if bool(flat.sum().isfinite()):
            return None
        return next(
            (i for i, run in enumerate(self.runs) if not flat[run.slice].isfinite().all()), None
        )

    def _common_buffer(self, parameters: Sequence[Tensor]) -> Tensor | None:
        gradients = [parameter.grad for parameter in parameters]
        if not gradients or gradients[0] is None or gradients[0].layout != torch.strided:
            return None
        first = gradients[0]
        storage, offset = first.untyped_storage().data_ptr(), first.storage_offset()
        for gradient, run in zip(gradients, self.runs, strict=True):
            if (
                gradient is None
                or gradient.layout != torch.strided
                or gradient.dtype != torch.float32
                or gradient.storage_offset() != offset + run.start
                or gradient.untyped_storage().data_ptr() != storage
                or not gradient.is_contiguous()
            ):
                return None
        return first.as_strided((self.numel,), (1,), offset)


def _dense_real(gradient: Tensor) -> Tensor:
    if gradient.is_complex():
        raise CompsgdError("a gradient is complex; compsgd discretises real gradients only")
    return gradient.to_dense() if gradient.layout != torch.strided else gradient

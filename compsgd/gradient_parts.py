"""A worker's gradient before it is coded: parts of the flat vector, wherever they lie in memory."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compsgd.errors import CompsgdError
from compsgd.flat import FlatLayout, Run
from compsgd.scratch import Scratch


class GradientPart(NamedTuple):
    """Neighbouring elements: their place in the flat vector, and float32, shape (run.numel,)."""

    run: Run
    values: Tensor


class GradientParts:
    """The parts that are there; elsewhere the gradient is 0.

    Attributes:
        parts: in the order of the flat vector; contiguous.
    """

    def __init__(
        self,
        parts: Sequence[GradientPart],
        layout: FlatLayout,
        device: torch.device,
        scratch: Scratch | None = None,
    ) -> None:
        """
        Args:
            parts: see above.
            layout: of the flat vector.
            device: where that is to be.
            scratch: memory for it; new memory without.
        """
        self.parts = parts
        self._layout = layout
        self._device = device
        self._scratch = scratch or Scratch(torch.float32)

    def flat(self) -> Tensor:
        """The whole vector, float32, shape (layout.numel,): the only part itself, or a copy."""
        if len(self.parts) == 1 and self.parts[0].run.numel == self._layout.numel:
            return self.parts[0].values
        flat = self._scratch.flat(self._layout.numel, self._device)
        done = 0
        for run, values in self.parts:
            flat[done : run.start] = 0
            flat[run.slice] = values
            done = run.end
        flat[done:] = 0
        return flat

    def first_non_finite(self) -> int | None:
        """Index of the first parameter whose elements are not all finite, or None."""
        # One infinity or NaN makes a sum that is not finite, and so, rarely, do large numbers.
        sums = [values.sum() for _, values in self.parts]
        if not sums or bool(torch.stack(sums).isfinite().all()):
            return None
        return self.culprit()

    def culprit(self) -> int | None:
        """The same, element by element."""
        for run, values in self.parts:
            for index, part in self._layout.parts_of(run):
                if not values[part.shifted(-run.start).slice].isfinite().all():
                    return index
        return None


def gather(parameters: Sequence[Tensor], layout: FlatLayout, device: torch.device) -> GradientParts:
    """Every `.grad` that is there: one part, if they are views of a buffer in this order
    (`compsgd.gradients`), or else a part for each.

    Raises:
        CompsgdError: a complex gradient.
    """
    buffer = _common_buffer(parameters, layout)
    if buffer is not None:
        return GradientParts([GradientPart(Run(0, layout.numel), buffer)], layout, device)
    parts = [
        GradientPart(run, _as_values(parameter.grad, device))
        for parameter, run in zip(parameters, layout.runs, strict=True)
        if parameter.grad is not None
    ]
    return GradientParts(parts, layout, device)


def _common_buffer(parameters: Sequence[Tensor], layout: FlatLayout) -> Tensor | None:
    gradients = [parameter.grad for parameter in parameters]
    if not gradients or gradients[0] is None or gradients[0].layout != torch.strided:
        return None
    first = gradients[0]
    storage, offset = first.untyped_storage().data_ptr(), first.storage_offset()
    for gradient, run in zip(gradients, layout.runs, strict=True):
        if (
            gradient is None
            or gradient.layout != torch.strided
            or gradient.dtype != torch.float32
            or gradient.storage_offset() != offset + run.start
            or gradient.untyped_storage().data_ptr() != storage
            or not gradient.is_contiguous()
        ):
            return None
    return first.detach().as_strided((layout.numel,), (1,), offset)


def _as_values(gradient: Tensor, device: torch.device) -> Tensor:
    """Dense, float32, flat; the gradient's own memory where it is so already."""
    if gradient.is_complex():
        raise CompsgdError("a gradient is complex; compsgd discretises real gradients only")
    dense = gradient.to_dense() if gradient.layout != torch.strided else gradient
    return dense.detach().to(device, torch.float32).reshape(-1)

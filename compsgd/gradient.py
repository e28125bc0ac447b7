"""A worker's gradient before it is coded: parts of the flat vector, wherever they lie in memory."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from compsgd.errors import SettingError
from compsgd.layout import FlatLayout, Span, Workspace


class GradientPart(NamedTuple):
    """Neighbouring elements: their place in the flat vector, and float32, shape (span.numel,)."""

    span: Span
    values: Tensor


class Gradient:
    """One worker's gradient; where a parameter has none, it is 0.

    Attributes:
        parts: what is there, in the order of the flat vector; contiguous.
        present: by parameter, whether it has a gradient.
    """

    def __init__(
        self,
        parts: Sequence[GradientPart],
        present: Sequence[bool],
        layout: FlatLayout,
        device: torch.device,
        workspace: Workspace | None = None,
    ) -> None:
        """
        Args:
            parts, present: see above.
            layout: of the flat vector.
            device: where that is to be.
            workspace: memory for it; new memory without.
        """
        self.parts = parts
        self.present = present
        self._layout = layout
        self._device = device
        self._workspace = workspace

    def absent(self) -> "Gradient":
        """The gradient of a worker that has none."""
        nothing = [False] * len(self.present)
        return Gradient([], nothing, self._layout, self._device, self._workspace)

    def with_values_of(self, vector: Tensor) -> "Gradient":
        """Other values in the same places: those of a flat vector, float32, shape
        (layout.numel,)."""
        parts = [GradientPart(span, vector[span.slice]) for span, _ in self.parts]
        return Gradient(parts, self.present, self._layout, self._device, self._workspace)

    def flat(self) -> Tensor:
        """The whole vector, float32, shape (layout.numel,): the only part itself, or a copy."""
        if len(self.parts) == 1 and self.parts[0].span.numel == self._layout.numel:
            return self.parts[0].values
        numel, device = self._layout.numel, self._device
        workspace = self._workspace or Workspace()
        flat = workspace.take("gradient", numel, torch.float32, device)
        done = 0
        for span, values in self.parts:
            flat[done : span.start] = 0
            flat[span.slice] = values
            done = span.end
        flat[done:] = 0
        return flat

    def within(self, span: Span, parameters: range, layout: FlatLayout) -> "Gradient":
        """What of it lies in a span: of these parameters, and there of this layout."""
        first = bisect_right(self.parts, span.start, key=lambda part: part.span.end)
        end = bisect_left(self.parts, span.end, key=lambda part: part.span.start)
        parts = []
        for own, values in self.parts[first:end]:
            here = own.within(span)
            its_values = values[here.shifted(-own.start).slice]
            parts.append(GradientPart(here.shifted(-span.start), its_values))
        present = self.present[parameters.start : parameters.stop]
        return Gradient(parts, present, layout, self._device, self._workspace)

    def present_spans(self) -> list[Span]:
        """Where there is a gradient; usually one span over everything."""
        return [span for here, span in self._layout.labelled_spans(self.present) if here]

    def absent_spans(self) -> list[Span]:
        """Where there is none."""
        return [span for here, span in self._layout.labelled_spans(self.present) if not here]

    def is_finite(self) -> bool:
        """Whether all elements are."""
        return all(map(math.isfinite, self.sums)) or self.first_non_finite() is None

    @cached_property
    def sums(self) -> list[float]:
        """The sum of each part: one infinity or NaN makes one that is not finite, and so, rarely,
        do large numbers. Read once: it is asked whether all shares are finite, and each share."""
        sums = [values.sum() for _, values in self.parts]
        # One by one, a device would be waited for each time.
        return torch.stack(sums).tolist() if sums else []

    def first_non_finite(self) -> int | None:
        """Index of the first parameter whose elements are not all finite, or None."""
        for span, values in self.parts:
            for index, part in self._layout.parts_of(span):
                if not values[part.shifted(-span.start).slice].isfinite().all():
                    return index
        return None


def gather(parameters: Sequence[Tensor], layout: FlatLayout, device: torch.device) -> Gradient:
    """The gradients now in `p.grad`: one part, if they are views of a buffer in this order
    (`compsgd.optim.flat_gradients`), or else a part for each.

    Raises:
        SettingError: a complex gradient.
    """
    present = [parameter.grad is not None for parameter in parameters]
    buffer = _common_buffer(parameters, layout)
    if buffer is not None:
        whole = GradientPart(Span(0, layout.numel), buffer)
        return Gradient([whole], present, layout, device)
    parts = [
        GradientPart(span, _as_values(parameter.grad, device))
        for parameter, span in zip(parameters, layout.spans, strict=True)
        if parameter.grad is not None
    ]
    return Gradient(parts, present, layout, device)


def _common_buffer(parameters: Sequence[Tensor], layout: FlatLayout) -> Tensor | None:
    gradients = [parameter.grad for parameter in parameters]
    if not gradients or gradients[0] is None or gradients[0].layout != torch.strided:
        return None
    first = gradients[0]
    storage, offset = first.untyped_storage().data_ptr(), first.storage_offset()
    for gradient, span in zip(gradients, layout.spans, strict=True):
        if (
            gradient is None
            or gradient.layout != torch.strided
            or gradient.dtype != torch.float32
            or gradient.storage_offset() != offset + span.start
            or gradient.untyped_storage().data_ptr() != storage
            or not gradient.is_contiguous()
        ):
            return None
    return first.detach().as_strided((layout.numel,), (1,), offset)


def _as_values(gradient: Tensor, device: torch.device) -> Tensor:
    """Dense, float32, flat; the gradient's own memory where it is so already."""
    if gradient.is_complex():
        raise SettingError("a gradient is complex; compsgd discretises real gradients only")
    dense = gradient.to_dense() if gradient.layout != torch.strided else gradient
    return dense.detach().to(device, torch.float32).reshape(-1)

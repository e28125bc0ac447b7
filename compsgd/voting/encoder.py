"""Encoders: one worker's gradient becomes codes (design, section 2, steps 1 to 3, and section 2b).

An encoder owns what its worker remembers from round to round. Another one is another class with
these methods.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from compsgd.codec.base import Codec, Memory, Rates
from compsgd.gradient import Gradient
from compsgd.layout import Span
from compsgd.rng import BitStream
from compsgd.settings import VoteSettings

# Infinite bounds need no special first round: whatever the decay, the first gradient is both.
_NOTHING_SEEN = {"max": -math.inf, "min": math.inf, "momentum": 0.0, "error": 0.0}


class Encoder(Protocol):
    """One worker's.

    Attributes:
        state: what the worker remembers, by name; flat float32 vectors, shape (numel,) each, which
            `encode` updates in place.
        has_feedback: whether what a ballot leaves out is added to the next one.
    """

    @property
    def state(self) -> dict[str, Tensor]: ...

    @property
    def has_feedback(self) -> bool: ...

    def encode(
        self, codes: Tensor, gradient: Gradient, bits: BitStream | None, codec: Codec
    ) -> None:
        """Writes the codes of a gradient, where it is present, and remembers what it has seen.

        Args:
            codes: codec.alphabet.code_dtype, shape (numel,).
            gradient: finite, of numel elements.
            bits: of the vector, for levels 0; None where zeros are kept.
            codec: does the work.
        """

    def smoothed(self, gradient: Gradient) -> Gradient:
        """What was discretised of a gradient that has just been encoded, before any error was
        added: the gradient itself, or its running mean."""

    def part(self, span: Span) -> "Encoder":
        """The same worker on a span of the vector, with the same memory."""


class WorkerEncoder:
    """Signs, or levels within the worker's decaying running range; of its gradient, or of the
    gradient's running mean; perhaps with error feedback.

    Attributes:
        state: "max" and "min", infinite where the worker has seen no gradient yet; "momentum" and
            "error", 0 there. Of them what there is.
    """

    def __init__(self, state: dict[str, Tensor], rates: Rates) -> None:
        self.state = state
        self.has_feedback = "error" in state
        self._rates = rates

    @staticmethod
    def state_names(settings: VoteSettings, *, has_range: bool = True) -> tuple[str, ...]:
        """What a worker remembers under these settings; without a range it sends signs."""
        kept = {
            "max": has_range,
            "min": has_range,
            "momentum": settings.momentum > 0,
            "error": settings.error_feedback,
        }
        return tuple(name for name, is_kept in kept.items() if is_kept)

    @classmethod
    def fresh(
        cls, numel: int, device: torch.device, settings: VoteSettings, *, has_range: bool = True
    ) -> "WorkerEncoder":
        """Of a worker that has seen nothing."""
        state = {
            name: torch.full((numel,), _NOTHING_SEEN[name], dtype=torch.float32, device=device)
            for name in cls.state_names(settings, has_range=has_range)
        }
        momentum = settings.momentum
        rates = Rates(settings.decay_max, settings.decay_min, momentum, 1.0 - momentum)
        return cls(state, rates)

    def encode(
        self, codes: Tensor, gradient: Gradient, bits: BitStream | None, codec: Codec
    ) -> None:
        state = self.state
        bounds = (state["max"], state["min"]) if "max" in state else None
        memory = Memory(bounds, state.get("momentum"), state.get("error"), self._rates)
        codec.encode(codes, gradient, memory, bits)

    def smoothed(self, gradient: Gradient) -> Gradient:
        momentum = self.state.get("momentum")
        return gradient if momentum is None else gradient.with_values_of(momentum)

    def part(self, span: Span) -> "WorkerEncoder":
        state = {name: values[span.slice] for name, values in self.state.items()}
        return WorkerEncoder(state, self._rates)

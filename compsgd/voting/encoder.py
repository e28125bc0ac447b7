"""Encoders: one worker's gradient becomes codes (design, section 2, steps 1 to 3).

An encoder owns what its worker remembers from round to round. Another one, as with momentum, is
another class with these methods.
"""

from typing import Protocol

import torch
from torch import Tensor

from compsgd.codec.base import Codec, Range
from compsgd.codec.binning import empty_range
from compsgd.gradient import Gradient
from compsgd.layout import Span
from compsgd.rng import BitStream
from compsgd.settings import VoteSettings


class Encoder(Protocol):
    """One worker's.

    Attributes:
        state: what the worker remembers, by name; flat float32 vectors, shape (numel,) each, which
            `encode` updates in place.
    """

    @property
    def state(self) -> dict[str, Tensor]: ...

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

    def part(self, span: Span) -> "Encoder":
        """The same worker on a span of the vector, with the same memory."""


class SignEncoder:
    """The signs of the gradient; remembers nothing."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def encode(
        self, codes: Tensor, gradient: Gradient, bits: BitStream | None, codec: Codec
    ) -> None:
        codec.encode(codes, gradient, None, bits)

    def part(self, span: Span) -> "SignEncoder":
        return self


class RangeEncoder:
    """Levels within the worker's decaying running range.

    Attributes:
        state: "max" and "min", infinite where the worker has seen no gradient yet.
    """

    def __init__(self, state: dict[str, Tensor], decay_max: float, decay_min: float) -> None:
        self.state = state
        self._decays = decay_max, decay_min

    @staticmethod
    def state_names(settings: VoteSettings) -> tuple[str, ...]:
        """What a worker remembers under these settings."""
        return "max", "min"

    @classmethod
    def fresh(cls, numel: int, device: torch.device, settings: VoteSettings) -> "RangeEncoder":
        """Of a worker that has seen nothing."""
        maximum, minimum = empty_range(numel, device)
        return cls({"max": maximum, "min": minimum}, settings.decay_max, settings.decay_min)

    def encode(
        self, codes: Tensor, gradient: Gradient, bits: BitStream | None, codec: Codec
    ) -> None:
        range_ = Range(self.state["max"], self.state["min"], *self._decays)
        codec.encode(codes, gradient, range_, bits)

    def part(self, span: Span) -> "RangeEncoder":
        state = {name: values[span.slice] for name, values in self.state.items()}
        return RangeEncoder(state, *self._decays)

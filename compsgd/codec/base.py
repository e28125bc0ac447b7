"""What a codec is: the work on codes, packed bytes and ballots, for one alphabet on one device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from compsgd.codec.alphabet import Alphabet
from compsgd.codec.combine import Combine
from compsgd.errors import DamagedDataError
from compsgd.gradient import Gradient
from compsgd.layout import Span, Voters
from compsgd.rng import BitStream


@dataclass(frozen=True)
class CodecSpec:
    """What a codec is chosen by.

    Attributes:
        alphabet: of the codes.
        binning: how gradients become levels, one of BINNINGS; None for signs, and where nothing is
            encoded.
        device_type: where tensors are: "cpu", "cuda", ...
        compile: "on", "native" or "off", as `compsgd.codec.compiling.choose` has it.
        may_fall_back: whether to go on without a compiler that fails, with a line in the log.
    """

    alphabet: Alphabet
    binning: str | None
    device_type: str
    compile: str
    may_fall_back: bool


def dirty_padding() -> DamagedDataError:
    """What to raise if what stands behind packed codes is not 0."""
    return DamagedDataError("packed levels end in padding that is not zero; the bytes are damaged")


class Rates(NamedTuple):
    """How what a worker remembers fades in a round (design, sections 2 and 2b); a kernel takes each
    as float32.

    Attributes:
        decay_max, decay_min, momentum: as in the settings.
        complement: 1 - momentum.
    """

    decay_max: float
    decay_min: float
    momentum: float
    complement: float


class Memory(NamedTuple):
    """What a worker remembers of each element (design, section 2, step 1, and section 2b, a and b).

    Attributes:
        bounds: its running range, (maximum, minimum); None for signs, which need none.
        momentum: its running mean gradient; None without momentum.
        error: what discretising took away last time; None without error feedback.
        rates: how they fade.

    Each vector is float32, shape (numel,), and updated in place.
    """

    bounds: tuple[Tensor, Tensor] | None
    momentum: Tensor | None
    error: Tensor | None
    rates: Rates

    @property
    def vectors(self) -> list[Tensor]:
        """All that there are."""
        return [*(self.bounds or ()), *(one for one in (self.momentum, self.error)
                                        if one is not None)]  # fmt: skip

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Memory":
        """The same with every vector changed."""
        bounds = None if self.bounds is None else (change(self.bounds[0]), change(self.bounds[1]))
        momentum, error = (
            None if vector is None else change(vector) for vector in (self.momentum, self.error)
        )
        return Memory(bounds, momentum, error, self.rates)

    def part(self, span: Span) -> "Memory":
        """That of a span of elements."""
        return self.mapped(lambda vector: vector[span.slice])


class Codec(Protocol):
    """Codes of one alphabet. All vectors are contiguous, flat, and on the codec's device.

    `numel` below is that of a vector or of a shard of it, and P the size of its packed codes,
    `compsgd.codec.blocks.packed_size(numel, alphabet)`.

    Attributes:
        alphabet: of the codes.
        chunk_numel: how many elements are best decoded at once: few enough for the cache, or as
            many as a call is worth.
    """

    @property
    def alphabet(self) -> Alphabet: ...
    @property
    def chunk_numel(self) -> int: ...

    def encode(
        self, codes: Tensor, gradient: Gradient, memory: Memory, bits: BitStream | None
    ) -> None:
        """Writes the codes of a worker's gradient, where it is present.

        1. The gradient moves the running mean, which takes its place. 2. What was taken away last
        time is added. 3. The range sees that. 4. It becomes levels. 5. What that took away is kept.

        Args:
            codes: alphabet.code_dtype, shape (numel,).
            gradient: finite, of numel elements.
            memory: the worker's, of numel elements, updated where the gradient is present.
            bits: of the vector, for levels 0; None where zeros are kept.
        """

    def pack(self, packed: Tensor, codes: Tensor) -> None:
        """Packs codes, shape (numel,), into uint8 of shape (P or more,), which ends in zeros."""

    def unpack(self, codes: Tensor, packed: Tensor) -> None:
        """The inverse of pack, of bytes that `check` has passed."""

    def check(self, packed: Tensor, numel: int) -> None:
        """Raises DamagedDataError unless every row, uint8 of shape (rows, P or more), holds packed
        codes and then zeros."""

    def count(
        self,
        codes: Tensor,
        ballots: Tensor,
        voters: Sequence[Voters],
        combine: Combine,
        bits: BitStream | None,
    ) -> None:
        """Writes the codes of what the voters' ballots combine to.

        Args:
            codes: of the results' alphabet, `combine.alphabet(alphabet, num_workers)`; shape
                (numel,). Some valid code where nobody votes.
            ballots: uint8, shape (num_workers, P or more), of bytes that `check` has passed.
            voters: who votes where, within these elements.
            combine: how.
            bits: of the vector, for ties; None where there are none to break.
        """

    def decode(self, out: Tensor, codes: Tensor, scale: float = 1.0) -> None:
        """Writes scale * level: of any floating type, shape (numel,), from codes of that shape."""

    def magnitudes(self, parts: Sequence[Tensor]) -> list[float]:
        """The sum of |x| of each part, flat float32; not finite if any x is not."""

    def level_magnitudes(self, parts: Sequence[Tensor]) -> list[float]:
        """The sum of |level| of each part, which are codes."""

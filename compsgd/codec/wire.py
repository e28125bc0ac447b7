"""How a vector travels: a header, then its elements, cut into shards (design, section 3)."""

from dataclasses import dataclass

from compsgd.codec.alphabet import Alphabet
from compsgd.codec.blocks import shard_size
from compsgd.layout import shard_numel

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class WireFormat:
    """What one worker sends of a vector.

    Attributes:
        numel: elements of the vector.
        alphabet: of its levels; None for float32.
        header_bytes: what stands in front of each shard.
    """

    numel: int
    alphabet: Alphabet | None
    header_bytes: int = 0

    def size_bytes(self, num_shards: int) -> int:
        """Bytes of a shard, header and all, if the vector is cut into so many."""
        numel = shard_numel(self.numel, num_shards)
        if self.alphabet is None:
            return self.header_bytes + _FLOAT_BYTES * numel
        return self.header_bytes + shard_size(numel, self.alphabet)


@dataclass(frozen=True)
class RoundFormat:
    """What travels in a round: every worker's ballot to those who count it, and then, where
    several count, the result of every shard to all. None for a result that nobody sends."""

    ballot: WireFormat
    result: WireFormat | None = None

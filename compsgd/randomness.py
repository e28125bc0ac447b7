"""Random bits without hidden state (design, section 4).

Every bit is a pure function of (seed, purpose, round, worker, element): the same on every device,
for any number of processes and however a vector is cut into chunks. `derive_key` turns everything
but the element into one 64-bit key; a 32-bit integer hash of key and element position does the
rest. One hash serves the 8 elements that share a column of a packing block, a bit each.
"""

import hashlib

import torch
from torch import Tensor

BREAK_ZERO = "break zeros of a ballot"
BREAK_TIE = "break ties of the vote"

_ROWS = 8
_COLUMNS = 512
_BLOCK = _ROWS * _COLUMNS


def derive_key(seed: int, purpose: str, *counters: int) -> int:
    """A 64-bit key for one purpose, as good as independent of every other one.

    Args:
        seed: the seed of the run.
        purpose: what the numbers are for.
        counters: which of the many streams of that purpose, as (round, worker).
    """
    words = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")


def random_bits(
    key: int, start: int, count: int, device: torch.device | str | None = None
) -> Tensor:
    """The fair bits of elements start..start+count-1 of a key's stream; uint8, shape (count,)."""
    first_block, end_block = start // _BLOCK, -(-(start + count) // _BLOCK)
    position = torch.arange(
        first_block * _COLUMNS, end_block * _COLUMNS, dtype=torch.int32, device=device
    )
    word = _hash(position, key).view(-1, 1, _COLUMNS)
    row = torch.arange(_ROWS, dtype=torch.int32, device=device).view(1, _ROWS, 1)
    bits = ((word >> row) & 1).to(torch.uint8).flatten()
    offset = start - first_block * _BLOCK
    return bits[offset : offset + count]


def break_zeros(levels: Tensor, key: int, start: int = 0) -> Tensor:
    """Turns every level 0 into -1 or +1, each with probability 1/2, in place.

    Args:
        levels: signed integers, shape (numel,).
        key: from derive_key.
        start: position of levels[0] in the flat vector of all parameters.
    """
    signs = random_bits(key, start, levels.numel(), levels.device).to(levels.dtype)
    signs.mul_(2).sub_(1)
    # 1 where the level is 0; arithmetic is faster than a mask.
    is_zero = levels.abs().clamp_(max=1).neg_().add_(1)
    return levels.addcmul_(signs, is_zero)


def _hash(position: Tensor, key: int) -> Tensor:
    """Mixes int32 positions with both halves of the key; multiplications wrap (Wellons' lowbias32
    constants, twice, so that two keys do not merely permute one stream)."""
    word = position + _as_int32(key)
    word = _mix(word, 0x7FEB352D, 0x846CA68B)
    word = word ^ _as_int32(key >> 32)
    return _mix(word, 0x7FEB352D, 0x846CA68B)


def _mix(word: Tensor, first: int, second: int) -> Tensor:
    word = (word ^ _shift_right(word, 16)) * _as_int32(first)
    word = (word ^ _shift_right(word, 15)) * _as_int32(second)
    return word ^ _shift_right(word, 16)


def _shift_right(word: Tensor, by: int) -> Tensor:
    """A logical shift: int32's own one would copy the sign bit."""
    return (word >> by) & ((1 << 32 - by) - 1)


def _as_int32(word: int) -> int:
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word

"""Random bits without hidden state (design, section 4).

Every bit is a pure function of (seed, purpose, round, worker, element): the same on every device,
for any number of processes and however a vector is cut into chunks. `derive_key` turns everything
but the element into one 64-bit key; a 32-bit integer hash of key and position does the rest.

The bits come in bytes: element 4096 k + 512 j + c (j < 8, c < 512) has bit j of byte 512 k + c, and
one hash makes 4 neighbouring bytes.
"""

import functools
import hashlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BREAK_ZERO = "break zeros of a ballot"
BREAK_TIE = "break ties of the vote"

BIT_ROWS = 8
BIT_COLUMNS = 512
BIT_BLOCK = BIT_ROWS * BIT_COLUMNS
_WORDS = BIT_COLUMNS // 4


class BitStream(NamedTuple):
    """The random bits of a vector.

    Attributes:
        key: from derive_key.
        start: where the vector begins in the flat vector of all parameters.
    """

    key: int
    start: int

    def at(self, offset: int) -> "BitStream":
        """Of the same vector from so many elements on."""
        return BitStream(self.key, self.start + offset)


def derive_key(seed: int, purpose: str, *counters: int) -> int:
    """A 64-bit key for one purpose, as good as independent of every other one.

    Args:
        seed: the seed of the run.
        purpose: what the numbers are for.
        counters: which of the many streams of that purpose, as (round, worker).
    """
    words = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")


def hash_positions(position: Tensor, key: Tensor) -> Tensor:
    """Mixes int32 positions, any shape, with both halves of the key, shape (2,); multiplications
    wrap (Wellons' lowbias32 constants, twice, so that two keys do not merely permute a stream)."""
    first, second = key.unbind()
    word = _mix(position + first, 0x7FEB352D, 0x846CA68B)
    return _mix(word ^ second, 0x7FEB352D, 0x846CA68B)


def random_bits(
    key: int,
    start: int,
    count: int,
    device: torch.device | str | None = None,
    hash_words: Callable[[Tensor, Tensor], Tensor] = hash_positions,
) -> Tensor:
    """The fair bits of elements start..start+count-1, one by one.

    Args:
        key: from derive_key.
        start: position of the first element in the flat vector of all parameters.
        count: how many elements.
        device: where to.
        hash_words: hash_positions, perhaps compiled.

    Returns:
        uint8, shape (count,).
    """
    found = block_bits(key, start, -(-count // BIT_BLOCK), device, hash_words)
    return spread_bits(found).flatten()[:count]


def block_bits(
    key: int,
    start: int,
    num_blocks: int,
    device: torch.device | str | None = None,
    hash_words: Callable[[Tensor, Tensor], Tensor] = hash_positions,
) -> Tensor:
    """The bits of elements from `start` on, a byte for 8 that lie 512 apart.

    Args:
        key: from derive_key.
        start: position of the first element in the flat vector of all parameters.
        num_blocks: how many times 4096 elements.
        device: where to.
        hash_words: hash_positions, perhaps compiled.

    Returns:
        uint8, shape (num_blocks, 512): bit j of [k, c] is that of element
        start + 4096 k + 512 j + c.
    """
    block, offset = divmod(start, BIT_BLOCK)
    row, column = divmod(offset, BIT_COLUMNS)
    # A start within a block needs the next one too.
    end_block = block + num_blocks + (1 if offset else 0)
    position = _positions(end_block - block, str(device or "cpu"))
    # Positions are only ever hashed as a sum with the key's lower half.
    halves = [_as_int32(key + block * _WORDS), _as_int32(key >> 32)]
    words = hash_words(position, torch.tensor(halves, dtype=torch.int32, device=device))
    found = words.view(torch.uint8).view(-1, BIT_COLUMNS)
    if sys.byteorder == "big":
        found = found.view(-1, 4).flip(1).view(-1, BIT_COLUMNS)
    if not offset:
        return found
    upper = _from_row(found, row)
    if not column:
        return upper
    lower = _from_row(found, row + 1)
    return torch.cat([upper[:, column:], lower[:, :column]], 1)


def spread_bits(packed: Tensor) -> Tensor:
    """The bits of bytes one by one; uint8, (blocks, columns) to (blocks, 8, columns)."""
    row = torch.arange(BIT_ROWS, dtype=torch.uint8, device=packed.device)
    bit = (torch.ones_like(row) << row).view(1, BIT_ROWS, 1)
    return (packed.unsqueeze(1) & bit).clamp(max=1)


def gather_bits(bits: Tensor) -> Tensor:
    """The inverse of spread_bits."""
    row = torch.arange(BIT_ROWS, dtype=torch.uint8, device=bits.device).view(1, BIT_ROWS, 1)
    return (bits << row).sum(1, dtype=torch.uint8)


@functools.lru_cache(maxsize=64)
def _positions(num_blocks: int, device: str) -> Tensor:
    """The positions of the words of so many blocks, from 0; int32, a row for each block."""
    position = torch.arange(num_blocks * _WORDS, dtype=torch.int32, device=device)
    return position.view(num_blocks, _WORDS)


def _from_row(packed: Tensor, row: int) -> Tensor:
    """Bytes whose first bit is that of `row`; a block less."""
    here, following = packed[:-1], packed[1:]
    if row == 0:
        return here
    if row == BIT_ROWS:
        return following
    return (here >> row) | (following << BIT_ROWS - row)


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

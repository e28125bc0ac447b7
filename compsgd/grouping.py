"""How symbols share bytes: a group of elements becomes a group of bytes, exactly reversible.

Two ways (design, section 3). `BitGroup` gives every symbol a whole number of bits; `RadixGroup`
reads the symbols as the digits of one number, which wastes less where the alphabet is no power
of two. Both work on whole rows: element j of all groups is row j, byte k of all groups is row k,
so that a shift or a product is one vector operation over contiguous memory.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from compsgd.alphabet import Alphabet


class Group(Protocol):
    """`num_elements` symbols out of `symbols` stand in `num_bytes` bytes."""

    @property
    def symbols(self) -> int: ...
    @property
    def num_elements(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def is_full(self) -> bool:
        """Whether every byte string is the code of some levels."""

    def part_num_bytes(self, num_elements: int) -> int:
        """Bytes that the first `num_elements` symbols of a group need."""

    def encode(self, codes: Tensor) -> Tensor:
        """Codes (blocks, num_elements, columns) to uint8 (blocks, num_bytes, columns)."""

    def decode(self, packed: Tensor) -> Tensor:
        """The inverse of encode. Bytes nobody could have written give codes >= symbols."""


@dataclass(frozen=True)
class BitGroup:
    """Eight symbols of `num_bits` bits each in `num_bits` bytes, little-endian."""

    num_bits: int
    symbols: int
    num_elements: int = 8

    @property
    def num_bytes(self) -> int:
        return self.num_bits

    @property
    def is_full(self) -> bool:
        return self.symbols == 1 << self.num_bits

    def part_num_bytes(self, num_elements: int) -> int:
        return (num_elements * self.num_bits + 7) // 8

    def encode(self, codes: Tensor) -> Tensor:
        blocks, _, columns = codes.shape
        packed = torch.empty(
            blocks, self.num_bytes, columns, dtype=torch.uint8, device=codes.device
        )
        for k in range(self.num_bytes):
            first, last = 8 * k // self.num_bits, (8 * k + 7) // self.num_bits
            byte = _shift(codes[:, first], first * self.num_bits - 8 * k)
            for j in range(first + 1, last + 1):
                byte |= _shift(codes[:, j], j * self.num_bits - 8 * k)
            packed[:, k] = byte
        return packed

    def decode(self, packed: Tensor) -> Tensor:
        blocks, _, columns = packed.shape
        # Shifts may drop bits on the left that the mask, or the last byte, drops anyway.
        dtype = _narrowest(self.num_bits)
        packed = packed.to(dtype)
        mask = (1 << self.num_bits) - 1
        codes = torch.empty(blocks, self.num_elements, columns, dtype=dtype, device=packed.device)
        for j in range(self.num_elements):
            first, last = j * self.num_bits // 8, ((j + 1) * self.num_bits - 1) // 8
            code = _shift(packed[:, first], 8 * first - j * self.num_bits)
            for k in range(first + 1, last + 1):
                code |= _shift(packed[:, k], 8 * k - j * self.num_bits)
            codes[:, j] = code & mask
        return codes


def _narrowest(num_bits: int) -> torch.dtype:
    if num_bits <= 8:
        return torch.uint8
    return torch.int16 if num_bits <= 15 else torch.int32


def _shift(values: Tensor, left: int) -> Tensor:
    return values << left if left >= 0 else values >> -left


@dataclass(frozen=True)
class RadixGroup:
    """`num_elements` digits of base `symbols` as one little-endian number of `num_bytes` bytes."""

    symbols: int
    num_elements: int
    num_bytes: int
    is_full: bool = False

    def part_num_bytes(self, num_elements: int) -> int:
        num_bytes = 0
        while 256**num_bytes < self.symbols**num_elements:
            num_bytes += 1
        return num_bytes

    @property
    def _dtype(self) -> torch.dtype:
        return torch.int32 if self.num_bytes < 4 else torch.int64

    def encode(self, codes: Tensor) -> Tensor:
        number = codes[:, -1].to(self._dtype)
        for j in reversed(range(self.num_elements - 1)):
            number.mul_(self.symbols).add_(codes[:, j])
        return torch.stack([(number >> 8 * k).to(torch.uint8) for k in range(self.num_bytes)], 1)

    def decode(self, packed: Tensor) -> Tensor:
        number = packed[:, 0].to(self._dtype)
        for k in range(1, self.num_bytes):
            number |= packed[:, k].to(self._dtype) << 8 * k
        blocks, _, columns = packed.shape
        codes = torch.empty(
            blocks, self.num_elements, columns, dtype=torch.uint8, device=packed.device
        )
        for j in range(self.num_elements):
            rest = torch.div(number, self.symbols, rounding_mode="floor")
            codes[:, j] = number.sub_(rest * self.symbols)
            number = rest
        codes[:, -1].masked_fill_(number != 0, self.symbols)
        return codes


# Elements and bytes of a group by number of symbols: 2^b + 1 for b = 1..4.
_RADIX = {3: (5, 1), 5: (10, 3), 9: (5, 2), 17: (15, 8)}


def group_for(alphabet: Alphabet) -> Group:
    """The group of an alphabet: exactly b bits an element where 2^b symbols have no zero, within
    5 % of log2(symbols) bits where _RADIX knows them, and else the next whole number of bits."""
    if alphabet.symbols in _RADIX:
        return RadixGroup(alphabet.symbols, *_RADIX[alphabet.symbols])
    return BitGroup((alphabet.symbols - 1).bit_length(), alphabet.symbols)

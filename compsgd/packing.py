"""Levels to packed bytes and back (design, section 3).

A vector is cut into blocks of 512 groups, then one block of the whole groups that are left, then
one group in part. Inside a block the elements that share a byte lie 512 apart: rows of contiguous
elements meet in vector operations. Nothing is padded but the last byte.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from compsgd.alphabet import (
    Alphabet,
    ballot_alphabet,
    check_levels,
    codes_to_levels,
    levels_to_codes,
)
from compsgd.checks import check_flag, check_integer, check_num_bits, check_tensor
from compsgd.errors import CompsgdError
from compsgd.flat import Run
from compsgd.grouping import Group, group_for

BLOCK_COLUMNS = 512
# Large enough to outweigh the cost of a call, small enough that temporaries stay in the cache.
_CHUNK_BLOCKS = 64


class _Segment(NamedTuple):
    """Equal blocks one after the other: where they start and how they are shaped."""

    first_element: int
    first_byte: int
    blocks: int
    columns: int


def packed_num_bytes(numel: int, num_bits: int, zeros: bool = False) -> int:
    """Bytes that `numel` levels take: ceil(numel * num_bits / 8) where zeros are broken.

    Raises:
        CompsgdError: numel < 0, or num_bits not in 1..8.
    """
    numel = check_integer("numel", numel, 0)
    alphabet = ballot_alphabet(check_num_bits(num_bits), check_flag("zeros", zeros))
    return levels_num_bytes(numel, alphabet)


def pack(levels: Tensor, num_bits: int, zeros: bool = False) -> Tensor:
    """Packs levels into `num_bits` codes.

    Args:
        levels: integers of any shape, in {-L..-1, 1..L} or, with `zeros`, {-L..L}, L = 2^(b-1).
        num_bits: 1 to 8.
        zeros: whether the alphabet keeps zero.

    Returns:
        uint8, shape (packed_num_bytes(numel, num_bits, zeros),).

    Raises:
        CompsgdError: a level outside the alphabet, levels that are no integers, a bad num_bits.
    """
    alphabet = ballot_alphabet(check_num_bits(num_bits), check_flag("zeros", zeros))
    check_levels(check_tensor("levels", levels), alphabet)
    return pack_levels(levels.flatten(), alphabet)


def unpack(packed: Tensor, numel: int, num_bits: int, zeros: bool = False) -> Tensor:
    """The inverse of `pack`: any byte string gives either valid levels or an error.

    Args:
        packed: uint8, shape (packed_num_bytes(numel, num_bits, zeros),).
        numel: how many levels it holds.
        num_bits, zeros: as they were packed.

    Returns:
        int16, shape (numel,).

    Raises:
        CompsgdError: a wrong length, a symbol outside the alphabet, padding that is not zero.
    """
    numel = check_integer("numel", numel, 0)
    alphabet = ballot_alphabet(check_num_bits(num_bits), check_flag("zeros", zeros))
    return unpack_levels(check_tensor("packed", packed), numel, alphabet)


def levels_num_bytes(numel: int, alphabet: Alphabet) -> int:
    """Bytes that `numel` levels of any alphabet take."""
    group = group_for(alphabet)
    groups, rest = divmod(numel, group.num_elements)
    return groups * group.num_bytes + group.part_num_bytes(rest)


def chunks(numel: int, alphabet: Alphabet) -> Iterator[tuple[Run, Run]]:
    """Pieces of a vector that can be packed one by one: the elements of each, and its bytes in
    the packed whole. Long vectors are worked on piece by piece, so that what is written by one
    operation is still in the cache for the next."""
    group = group_for(alphabet)
    elements_of_all = _CHUNK_BLOCKS * BLOCK_COLUMNS * group.num_elements
    bytes_of_all = _CHUNK_BLOCKS * BLOCK_COLUMNS * group.num_bytes
    num_bytes = levels_num_bytes(numel, alphabet)
    for i in range(-(-numel // elements_of_all)):
        yield (
            Run(i * elements_of_all, min((i + 1) * elements_of_all, numel)),
            Run(i * bytes_of_all, min((i + 1) * bytes_of_all, num_bytes)),
        )


def pack_levels(levels: Tensor, alphabet: Alphabet) -> Tensor:
    """`pack` for any alphabet; levels, shape (numel,), that are known to lie in it."""
    numel = levels.numel()
    group = group_for(alphabet)
    codes = levels_to_codes(levels, alphabet)
    packed = torch.empty(levels_num_bytes(numel, alphabet), dtype=torch.uint8, device=levels.device)
    for segment in _whole_segments(numel, group):
        elements, block_bytes = _views(codes, packed, segment, group)
        block_bytes.copy_(group.encode(elements))
    rest = numel % group.num_elements
    if rest:
        last = codes.new_zeros(1, group.num_elements, 1)
        last[0, :rest, 0] = codes[numel - rest :]
        num_bytes = group.part_num_bytes(rest)
        packed[packed.numel() - num_bytes :] = group.encode(last)[0, :num_bytes, 0]
    return packed


def unpack_levels(packed: Tensor, numel: int, alphabet: Alphabet) -> Tensor:
    """`unpack` for any alphabet; int16, or int32 where the largest level needs it."""
    expected_bytes = levels_num_bytes(numel, alphabet)
    if packed.dtype != torch.uint8 or packed.shape != (expected_bytes,):
        raise CompsgdError(
            f"packed levels are {packed.dtype} of shape {tuple(packed.shape)}; {numel} levels of "
            f"{alphabet.symbols} symbols take uint8 of shape ({expected_bytes},)"
        )
    group = group_for(alphabet)
    codes = torch.empty(numel, dtype=alphabet.code_dtype, device=packed.device)
    for segment in _whole_segments(numel, group):
        elements, block_bytes = _views(codes, packed, segment, group)
        elements.copy_(group.decode(block_bytes))
    rest = numel % group.num_elements
    if rest:
        codes[numel - rest :] = _decode_part(packed, rest, group)
    if numel and not group.is_full:
        _check_codes(codes, group)
    return codes_to_levels(codes, alphabet)


def _whole_segments(numel: int, group: Group) -> Iterator[_Segment]:
    """The full blocks, then one narrower block of the whole groups that remain."""
    groups = numel // group.num_elements
    blocks, columns = divmod(groups, BLOCK_COLUMNS)
    if blocks:
        yield _Segment(0, 0, blocks, BLOCK_COLUMNS)
    if columns:
        done = blocks * BLOCK_COLUMNS
        yield _Segment(done * group.num_elements, done * group.num_bytes, 1, columns)


def _views(codes: Tensor, packed: Tensor, segment: _Segment, group: Group) -> tuple[Tensor, Tensor]:
    """Both sides of a segment as (blocks, rows, columns) views."""

    def view(flat: Tensor, first: int, rows: int) -> Tensor:
        size = segment.blocks * rows * segment.columns
        return flat[first : first + size].view(segment.blocks, rows, segment.columns)

    return (
        view(codes, segment.first_element, group.num_elements),
        view(packed, segment.first_byte, group.num_bytes),
    )


def _decode_part(packed: Tensor, rest: int, group: Group) -> Tensor:
    """The codes of a last group that holds only `rest` elements."""
    num_bytes = group.part_num_bytes(rest)
    last = packed.new_zeros(1, group.num_bytes, 1)
    last[0, :num_bytes, 0] = packed[packed.numel() - num_bytes :]
    codes = group.decode(last)[0, :, 0]
    if bool(codes[rest:].any()):
        raise CompsgdError("packed levels end in padding that is not zero; the bytes are damaged")
    return codes[:rest]


def _check_codes(codes: Tensor, group: Group) -> None:
    largest = int(codes.max())
    if largest >= group.symbols:
        raise CompsgdError(
            f"packed levels hold a symbol outside the alphabet of {group.symbols}; "
            "the bytes are damaged"
        )

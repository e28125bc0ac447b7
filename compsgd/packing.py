"""Levels to packed bytes and back (design, section 3)."""

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
from compsgd.compiling import Kernels
from compsgd.errors import CompsgdError
from compsgd.grouping import LANES
from compsgd.integrity import check_received
from compsgd.kernels import pack_codes, unpack_codes
from compsgd.pieces import packed_size

_EAGER = Kernels("off")


def packed_num_bytes(numel: int, num_bits: int, zeros: bool = False) -> int:
    """Bytes that `numel` levels take: ceil(numel * num_bits / 8) where zeros are broken.

    Raises:
        CompsgdError: numel < 0, or num_bits not in 1..8.
    """
    numel = check_integer("numel", numel, 0)
    alphabet = ballot_alphabet(check_num_bits(num_bits), check_flag("zeros", zeros))
    return packed_size(numel, alphabet)


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


def pack_levels(levels: Tensor, alphabet: Alphabet) -> Tensor:
    """`pack` for any alphabet; levels, shape (numel,), that are known to lie in it."""
    numel = levels.numel()
    packed = torch.empty(packed_size(numel, alphabet), dtype=torch.uint8, device=levels.device)
    for piece in _EAGER.pieces(numel, alphabet):
        codes = levels_to_codes(levels[piece.elements.slice], alphabet)
        packed[piece.bytes.slice] = piece.flat_bytes(piece.group.encode(piece.rows(codes)))
    return packed


def pack_shard(packed: Tensor, codes: Tensor, alphabet: Alphabet, kernels: Kernels) -> None:
    """Packs codes, alphabet.code_dtype of shape (numel,), into a shard of the wire, uint8 of shape
    (shard_size(numel, alphabet),) or longer, which ends in zeros."""
    codec = kernels.codec(alphabet, codes.device)
    if codec is not None:
        codec.pack(packed, codes)
        return
    for piece in kernels.pieces(codes.numel(), alphabet):
        place = packed[piece.bytes.slice]
        out = piece.byte_rows(place)
        args = out, piece.rows(_as_lanes(codes[piece.elements.slice]))
        kernels.run(pack_codes, piece.num_blocks, *args, alphabet=alphabet)
        if piece.is_tail:
            place.copy_(piece.flat_bytes(out))
    packed[packed_size(codes.numel(), alphabet) :] = 0


def unpack_shard(codes: Tensor, packed: Tensor, alphabet: Alphabet, kernels: Kernels) -> None:
    """The inverse of pack_shard."""
    codec = kernels.codec(alphabet, codes.device)
    if codec is not None:
        codec.unpack(codes, packed)
        return
    for piece in kernels.pieces(codes.numel(), alphabet):
        place = codes[piece.elements.slice]
        out = piece.rows(place)
        args = out, piece.byte_rows(packed[piece.bytes.slice])
        kernels.run(unpack_codes, piece.num_blocks, *args, alphabet=alphabet)
        if piece.is_tail:
            place.copy_(piece.flat(out))


def unpack_levels(packed: Tensor, numel: int, alphabet: Alphabet) -> Tensor:
    """`unpack` for any alphabet; int16, or int32 where the largest level needs it."""
    expected_bytes = packed_size(numel, alphabet)
    if packed.dtype != torch.uint8 or packed.shape != (expected_bytes,):
        raise CompsgdError(
            f"packed levels are {packed.dtype} of shape {tuple(packed.shape)}; {numel} levels of "
            f"{alphabet.symbols} symbols take uint8 of shape ({expected_bytes},)"
        )
    levels = torch.empty(numel, dtype=alphabet.level_dtype, device=packed.device)
    check_received(packed[None], numel, alphabet, _EAGER)
    for piece in _EAGER.pieces(numel, alphabet):
        codes = piece.group.decode(piece.byte_rows(packed[piece.bytes.slice]))
        levels[piece.elements.slice] = piece.flat(codes_to_levels(codes, alphabet))
    return levels


def _as_lanes(codes: Tensor) -> Tensor:
    """The same codes where they can be read as int32 lanes; a shard may start anywhere."""
    is_aligned = codes.storage_offset() * codes.element_size() % LANES == 0
    return codes if is_aligned else codes.clone()

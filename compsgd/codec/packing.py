"""Levels to packed bytes and back: the codec alone (design, section 3)."""

import torch
from torch import Tensor

from compsgd.checks import check_flag, check_integer, check_num_bits, check_tensor
from compsgd.codec.alphabet import (
    Alphabet,
    ballot_alphabet,
    check_levels,
    codes_to_levels,
    levels_to_codes,
)
from compsgd.codec.base import Codec, CodecSpec
from compsgd.codec.blocks import packed_size
from compsgd.codec.registry import codec_for
from compsgd.errors import DamagedDataError


def packed_num_bytes(numel: int, num_bits: int, zeros: bool = False) -> int:
    """Bytes that packed levels take: ceil(numel * num_bits / 8) where zeros are broken.

    Source: design, section 3.

    Args:
        numel: how many levels.
        num_bits: 1 to 8.
        zeros: whether the alphabet keeps zero.

    Raises:
        SettingError: numel < 0, or num_bits not in 1..8.

    Examples:
        >>> import compsgd
        >>> compsgd.packed_num_bytes(1000, num_bits=3)
        375
    """
    numel = check_integer("numel", numel, 0)
    alphabet = ballot_alphabet(check_num_bits(num_bits), check_flag("zeros", zeros))
    return packed_size(numel, alphabet)


def pack(levels: Tensor, num_bits: int, zeros: bool = False) -> Tensor:
    """Packs levels into `num_bits` codes.

    Source: design, section 3.

    Args:
        levels: integers of any shape, in {-L..-1, 1..L} or, with `zeros`, {-L..L}, L = 2^(b-1).
        num_bits: b, 1 to 8.
        zeros: whether the alphabet keeps zero.

    Returns:
        uint8, shape (packed_num_bytes(numel, num_bits, zeros),).

    Raises:
        SettingError: a level outside the alphabet, levels that are no integers, a bad num_bits.

    Examples:
        >>> import compsgd, torch
        >>> compsgd.pack(torch.tensor([1, -1, 4, -4, 2, 2, 3, -2]), num_bits=3)
        tensor([220, 209,  90], dtype=torch.uint8)
    """
    alphabet = ballot_alphabet(check_num_bits(num_bits), check_flag("zeros", zeros))
    check_levels(check_tensor("levels", levels), alphabet)
    return pack_levels(levels.flatten(), alphabet)


def unpack(packed: Tensor, numel: int, num_bits: int, zeros: bool = False) -> Tensor:
    """The inverse of `pack`: any byte string gives either valid levels or an error.

    Source: design, section 3.

    Args:
        packed: uint8, shape (packed_num_bytes(numel, num_bits, zeros),).
        numel: how many levels it holds.
        num_bits, zeros: as they were packed.

    Returns:
        int16, shape (numel,).

    Raises:
        SettingError: no tensor, or a bad numel or num_bits.
        DamagedDataError: a wrong length, a symbol outside the alphabet, padding that is not zero.

    Examples:
        >>> import compsgd, torch
        >>> packed = torch.tensor([220, 209, 90], dtype=torch.uint8)
        >>> compsgd.unpack(packed, 8, num_bits=3).tolist()
        [1, -1, 4, -4, 2, 2, 3, -2]
    """
    numel = check_integer("numel", numel, 0)
    alphabet = ballot_alphabet(check_num_bits(num_bits), check_flag("zeros", zeros))
    return unpack_levels(check_tensor("packed", packed), numel, alphabet)


def pack_levels(levels: Tensor, alphabet: Alphabet) -> Tensor:
    """`pack` for any alphabet; levels, shape (numel,), that are known to lie in it."""
    numel = levels.numel()
    packed = torch.empty(packed_size(numel, alphabet), dtype=torch.uint8, device=levels.device)
    _eager_codec(alphabet, levels).pack(packed, levels_to_codes(levels.to(torch.int32), alphabet))
    return packed


def unpack_levels(packed: Tensor, numel: int, alphabet: Alphabet) -> Tensor:
    """`unpack` for any alphabet; int16, or int32 where the largest level needs it."""
    expected_bytes = packed_size(numel, alphabet)
    if packed.dtype != torch.uint8 or packed.shape != (expected_bytes,):
        raise DamagedDataError(
            f"packed levels are {packed.dtype} of shape {tuple(packed.shape)}; {numel} levels of "
            f"{alphabet.symbols} symbols take uint8 of shape ({expected_bytes},)"
        )
    codec = _eager_codec(alphabet, packed)
    codec.check(packed[None], numel)
    codes = torch.empty(numel, dtype=alphabet.code_dtype, device=packed.device)
    codec.unpack(codes, packed)
    return codes_to_levels(codes, alphabet).to(alphabet.level_dtype)


def _eager_codec(alphabet: Alphabet, like: Tensor) -> Codec:
    return codec_for(CodecSpec(alphabet, None, like.device.type, "off", may_fall_back=False))

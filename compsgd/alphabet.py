"""Levels and the codes that stand for them on the wire (design, section 1).

With L = 2^(num_bits-1): where zeros are broken the alphabet is {-L..-1, 1..L}, numbered 0..2L-1;
where they are kept it is {-L..L}, numbered 0..2L.
"""

import torch
from torch import Tensor

from compsgd.errors import CompsgdError


def max_level(num_bits: int) -> int:
    """L, the largest level."""
    return 1 << (num_bits - 1)


def num_symbols(num_bits: int, zeros: bool) -> int:
    return 2 * max_level(num_bits) + (1 if zeros else 0)


def check_levels(levels: Tensor, num_bits: int, zeros: bool) -> None:
    """Raises CompsgdError unless every element of `levels` lies in the alphabet."""
    if levels.is_floating_point() or levels.is_complex() or levels.dtype == torch.bool:
        raise CompsgdError(f"levels are {levels.dtype}; they must be of an integer type")
    if levels.numel() == 0:
        return
    largest = max_level(num_bits)
    low, high = (int(extreme) for extreme in torch.aminmax(levels))
    if low < -largest or high > largest:
        outside = low if low < -largest else high
        raise CompsgdError(
            f"level {outside} does not fit num_bits={num_bits}; levels run from "
            f"{-largest} to {largest}"
        )
    if not zeros and not bool(levels.all()):
        raise CompsgdError("level 0 is not in the alphabet without zeros; pack with zeros=True")


def levels_to_codes(levels: Tensor, num_bits: int, zeros: bool) -> Tensor:
    """Numbers the levels from 0; same shape, uint8 (int16 where 257 symbols do not fit)."""
    codes = levels.to(torch.int16) + max_level(num_bits)
    if not zeros:
        codes -= (levels > 0).to(torch.int16)
    return codes if num_symbols(num_bits, zeros) > 256 else codes.to(torch.uint8)


def codes_to_levels(codes: Tensor, num_bits: int, zeros: bool) -> Tensor:
    """The inverse of levels_to_codes; same shape, int16 (a level of +128 is no int8)."""
    levels = codes.to(torch.int16) - max_level(num_bits)
    if not zeros:
        levels += levels >= 0
    return levels

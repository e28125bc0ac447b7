"""Levels and the codes that stand for them on the wire (design, section 1).

An alphabet whose largest level is L holds {-L..-1, 1..L}, numbered 0..2L-1, or, where zeros are
kept, {-L..L}, numbered 0..2L.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compsgd.errors import SettingError

_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


@dataclass(frozen=True)
class Alphabet:
    """The levels that a vector may hold."""

    largest: int
    zeros: bool

    @property
    def symbols(self) -> int:
        return 2 * self.largest + (1 if self.zeros else 0)

    @property
    def code_dtype(self) -> torch.dtype:
        return torch.uint8 if self.symbols <= 1 << 8 else torch.int32

    @property
    def level_dtype(self) -> torch.dtype:
        return torch.int16 if self.largest < 1 << 15 else torch.int32


def max_level(num_bits: int) -> int:
    """L = 2^(num_bits-1), the largest level of a ballot."""
    return 1 << (num_bits - 1)


def ballot_alphabet(num_bits: int, zeros: bool) -> Alphabet:
    """The alphabet of a ballot, and of the vote."""
    return Alphabet(max_level(num_bits), zeros)


def sum_alphabet(ballots: Alphabet, num_workers: int) -> Alphabet:
    """The alphabet of the sum of so many workers' levels: 2 * N * L + 1 symbols."""
    return Alphabet(num_workers * ballots.largest, zeros=True)


def check_levels(levels: Tensor, alphabet: Alphabet) -> None:
    """Raises SettingError unless every element of `levels` lies in the alphabet."""
    if levels.dtype not in _INTEGERS:
        raise SettingError(f"levels are {levels.dtype}; they must be uint8 or signed integers")
    if levels.numel() == 0:
        return
    low, high = (int(extreme) for extreme in torch.aminmax(levels))
    if low < -alphabet.largest or high > alphabet.largest:
        outside = low if low < -alphabet.largest else high
        raise SettingError(
            f"level {outside} does not fit; with this num_bits levels run from "
            f"{-alphabet.largest} to {alphabet.largest}"
        )
    if not alphabet.zeros and not bool(levels.all()):
        raise SettingError("level 0 is not in the alphabet without zeros; pack with zeros=True")


def levels_to_codes(levels: Tensor, alphabet: Alphabet) -> Tensor:
    """Numbers the levels from 0; same shape, alphabet.code_dtype. Of integers that have room for
    level + largest."""
    codes = levels + alphabet.largest
    if not alphabet.zeros:
        # 1 where the level is positive; arithmetic is faster than a mask.
        codes = codes - levels.clamp(0, 1)
    return codes.to(alphabet.code_dtype)


def codes_to_levels(codes: Tensor, alphabet: Alphabet) -> Tensor:
    """The inverse of levels_to_codes; same shape, int32."""
    return raised_levels(codes, alphabet) - alphabet.largest


def raised_levels(codes: Tensor, alphabet: Alphabet) -> Tensor:
    """level + largest, which is in 0..2 * largest; same shape, int32."""
    codes = codes.to(torch.int32)
    if alphabet.zeros:
        return codes
    # The largest level is a power of 2: codes of positive levels have the top bit.
    return codes + (codes >> alphabet.largest.bit_length() - 1)


def magnitudes_to_codes(
    magnitude: Tensor, sign: Tensor, bits: Tensor | None, alphabet: Alphabet
) -> Tensor:
    """Numbers the levels sign * magnitude; where zeros are broken, 0 counts as -1 or +1.

    Args:
        magnitude: int32 in 0..largest, any shape.
        sign: int32, -1 where the level is negative and else 0.
        bits: uint8, the sign of each level 0; None where the alphabet keeps zeros.
        alphabet: of the ballot.

    Returns:
        codes in alphabet.code_dtype, whose arithmetic may wrap on the way.
    """
    magnitude, sign = magnitude.to(alphabet.code_dtype), sign.to(alphabet.code_dtype)
    level = (magnitude ^ sign) - sign
    if bits is None:
        return level + alphabet.largest
    not_zero = magnitude.clamp(max=1)
    # Negative levels stand one higher: there is no code for 0.
    return level + (alphabet.largest - 1) + (not_zero & sign) + ((not_zero ^ 1) & bits)

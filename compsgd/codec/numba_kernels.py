"""The hot path in loops that Numba compiles for the CPU (design, sections 2 to 4).

The same work as that of `compsgd.codec.torch_kernels`, bit for bit, where it is done most: linear
binning, and alphabets of 2^num_bits levels without zero. One pass over memory does what torch needs
several for, and spans of elements may begin and end anywhere.

All arrays are one-dimensional and contiguous. `width` is a tuple of num_bits zeros: its length is
part of its type, so that every shift is by a constant. Packed bytes lie as `compsgd.codec.blocks`
has it: in blocks of 8 rows, at the end a narrower block, then one group in part.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numpy import float32, uint8, uint16, uint32

from compsgd.codec.numba_cache import forgive_cache, tell_no_cache
from compsgd.rng import BIT_BLOCK, BIT_COLUMNS, BIT_ROWS

_ROWS = BIT_ROWS
_COLUMNS = BIT_COLUMNS
_BLOCK = BIT_BLOCK
_LANES = 64

_Floats: TypeAlias = npt.NDArray[float32]
_Bytes: TypeAlias = npt.NDArray[uint8]
_Sums: TypeAlias = npt.NDArray[uint16]
_Words: TypeAlias = npt.NDArray[uint32]
_Places: TypeAlias = npt.NDArray[np.int64]
_Width: TypeAlias = tuple[int, ...]
_Bounds: TypeAlias = tuple[_Floats, _Floats]
_Rates: TypeAlias = tuple[float32, float32, float32, float32]

_ZERO = float32(0)
_ONE = float32(1)
_HALF = float32(0.5)


_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compiled when it is first called, and kept on the disk where there is a place for it. It
    lets other Python threads run meanwhile."""
    try:
        compiled = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except (RuntimeError, OSError) as error:
        tell_no_cache(error)
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    else:
        forgive_cache(compiled)
    return cast(_Function, compiled)


def inlined(function: _Function) -> _Function:
    """Compiled into its callers, with the constants that they call it with."""
    return cast(_Function, numba.njit(error_model="numpy", forceinline=True)(function))


@compiled
def sum_magnitudes(values: _Floats) -> float:
    """The sum of |x| of a float32 array; not finite if any is not."""
    total = 0.0
    lanes = np.zeros(_LANES, float32)
    num_blocks = values.shape[0] // _BLOCK
    for block in range(num_blocks):
        lanes[:] = _ZERO
        for row in range(_BLOCK // _LANES):
            first = block * _BLOCK + row * _LANES
            part = values[first : first + _LANES]
            for i in range(_LANES):
                lanes[i] += abs(part[i])
        for i in range(_LANES):
            total += lanes[i]
    for value in values[num_blocks * _BLOCK :]:
        total += abs(value)
    return total


@compiled
def random_words(words: _Words, first_key: uint32, second_key: uint32) -> None:
    """`compsgd.rng.hash_positions` of positions 0, 1, 2, ..., into uint32."""
    for i in range(words.shape[0]):
        words[i] = _mix(_mix(uint32(uint32(i) + first_key)) ^ second_key)


@compiled
def encode(
    codes: _Bytes,
    gradient: _Floats,
    first: int,
    bounds: _Bounds | None,
    momentum: _Floats | None,
    error: _Floats | None,
    rates: _Rates,
    bits: _Bytes,
    offset: int,
    width: _Width,
) -> None:
    """`compsgd.codec.torch_kernels.encode` on some elements of a vector. What is None is compiled
    away.

    Args:
        codes, bounds, momentum, error: of the whole vector.
        gradient: of its elements from `first` on.
        bits: a random bit for each element, a byte for 8.
        offset: of element 0 in them.
    """
    done = 0
    while done < gradient.shape[0]:
        start = first + done
        byte, bit, length = _bits_at(offset + start, gradient.shape[0] - done)
        end = start + length
        values, its_bits = gradient[done : done + length], bits[byte : byte + length]
        its_momentum = _part(momentum, start, end)
        if bounds is None:
            _sign_row(codes[start:end], values, its_momentum, rates, its_bits, bit)
        else:
            _level_row(
                codes[start:end], values, bounds[0][start:end], bounds[1][start:end],
                its_momentum, _part(error, start, end), rates, its_bits, bit, width,
            )  # fmt: skip
        done += length


@compiled
def pack(packed: _Bytes, codes: _Bytes, width: _Width) -> None:
    """Packs codes into as many bytes as they take."""
    num_bits = len(width)
    first_byte = 0
    for first in range(0, codes.shape[0], _BLOCK):
        columns = min(_BLOCK, codes.shape[0] - first) // _ROWS
        if columns == _COLUMNS:
            # A constant, which the compiler makes use of.
            _pack_rows(packed[first_byte:], codes[first:], _COLUMNS, width)
        else:
            _pack_rows(packed[first_byte:], codes[first:], columns, width)
        first_byte += num_bits * columns
    part = codes.shape[0] % _ROWS
    if part:
        group = np.zeros(_ROWS, uint8)
        group[:part] = codes[codes.shape[0] - part :]
        filled = np.empty(num_bits, uint8)
        _pack_rows(filled, group, 1, width)
        packed[first_byte:] = filled[: packed.shape[0] - first_byte]


@compiled
def vote(
    codes: _Bytes,
    ballots: _Bytes,
    starts: _Places,
    num_bytes: int,
    bits: _Bytes,
    offset: int,
    first: int,
    end: int,
    width: _Width,
) -> None:
    """The codes of the vote on elements first..end-1.

    Args:
        codes: uint8, of all elements; written there.
        ballots: uint8, all bytes there are.
        starts: int64, where in them the ballots of those who vote begin.
        num_bytes: of a ballot.
        bits: for ties.
        offset: of element 0 in them.
    """
    num_bits = len(width)
    sums = np.empty(_BLOCK, uint16)
    group = np.zeros(num_bits, uint8)
    for block in range(first // _BLOCK, -(-end // _BLOCK)):
        origin = block * _BLOCK
        numel = min(_BLOCK, codes.shape[0] - origin)
        columns = numel // _ROWS
        whole = columns * _ROWS
        first_byte = block * _COLUMNS * num_bits
        for i in range(starts.shape[0]):
            ballot = ballots[starts[i] + first_byte : starts[i] + num_bytes]
            if columns == _COLUMNS:
                # A constant, which the compiler makes use of.
                _add_rows(sums, ballot, _COLUMNS, i == 0, width)
            else:
                _add_rows(sums, ballot, columns, i == 0, width)
            if whole < numel:
                rest = min(num_bits, num_bytes - first_byte - columns * num_bits)
                group[:rest] = ballot[columns * num_bits : columns * num_bits + rest]
                _add_rows(sums[whole:], group, 1, i == 0, width)
        done = max(first - origin, 0)
        last = min(end - origin, numel)
        while done < last:
            byte, bit, length = _bits_at(offset + origin + done, last - done)
            _vote_row(
                codes[origin + done : origin + done + length], sums[done : done + length],
                starts.shape[0], bits[byte : byte + length], bit, width,
            )  # fmt: skip
            done += length


@compiled
def sum_levels(codes: _Bytes, width: _Width) -> int:
    """The sum of the magnitudes of the levels that codes stand for."""
    largest = 1 << (len(width) - 1)
    total = 0
    for code in codes:
        total += code - largest + 1 if code >= largest else largest - code
    return total


@compiled
def write_levels(out: _Floats, codes: _Bytes, scale: float32, width: _Width) -> None:
    """scale * level, float32."""
    largest = float32(1 << (len(width) - 1))
    for i in range(out.shape[0]):
        code = float32(codes[i])
        out[i] = (code - largest + (_ONE if code >= largest else _ZERO)) * scale


@inlined
def _mix(word: uint32) -> uint32:
    # Numba reckons with 64 bits unless it is told otherwise.
    word = uint32((word ^ (word >> 16)) * 0x7FEB352D)
    word = uint32((word ^ (word >> 15)) * 0x846CA68B)
    mixed: uint32 = uint32(word ^ (word >> 16))
    return mixed


@inlined
def _bits_at(position: int, limit: int) -> tuple[int, uint8, int]:
    """In which byte the random bit of an element lies, which bit of it that is, and for how many
    elements from there on, up to a limit, it is the same bit of neighbouring bytes."""
    block = position // _BLOCK
    row = position % _BLOCK // _COLUMNS
    column = position % _COLUMNS
    return block * _COLUMNS + column, uint8(1 << row), min(_COLUMNS - column, limit)


@inlined
def _part(vector: _Floats | None, start: int, end: int) -> _Floats | None:
    if vector is None:
        return None
    return vector[start:end]


@inlined
def _level_row(
    codes: _Bytes,
    gradient: _Floats,
    maximum: _Floats,
    minimum: _Floats,
    momentum: _Floats | None,
    error: _Floats | None,
    rates: _Rates,
    bits: _Bytes,
    bit: uint8,
    width: _Width,
) -> None:
    largest = float32(1 << (len(width) - 1))
    share = _ONE / largest
    decay_max, decay_min, beta, complement = rates
    for i in range(codes.shape[0]):
        value = _smoothed(momentum, gradient[i], i, beta, complement)
        if error is not None:
            value += error[i]
        upper = maximum[i] * decay_max
        upper = upper if upper > value else value
        lower = minimum[i] * decay_min
        lower = lower if lower < value else value
        maximum[i] = upper
        minimum[i] = lower
        is_negative = value < _ZERO
        bound = abs(lower if is_negative else upper)
        bound = _ONE if bound == _ZERO else bound
        magnitude = np.ceil(abs(value) / bound * largest)
        # There is no code for 0: negative levels stand one higher.
        code = largest - magnitude if is_negative else magnitude + (largest - _ONE)
        zero = largest if bits[i] & bit else largest - _ONE
        code = zero if magnitude == _ZERO else code
        codes[i] = uint8(np.int32(code))
        if error is not None:
            is_positive = code >= largest
            level = code - (largest - _ONE) if is_positive else code - largest
            error[i] = value - level * share * abs(upper if is_positive else lower)


@inlined
def _sign_row(
    codes: _Bytes,
    gradient: _Floats,
    momentum: _Floats | None,
    rates: _Rates,
    bits: _Bytes,
    bit: uint8,
) -> None:
    _, _, beta, complement = rates
    for i in range(codes.shape[0]):
        value = _smoothed(momentum, gradient[i], i, beta, complement)
        zero = _ONE if bits[i] & bit else _ZERO
        code = _ONE if value > _ZERO else _ZERO
        codes[i] = uint8(np.int32(zero if value == _ZERO else code))


@inlined
def _smoothed(
    momentum: _Floats | None, value: float32, i: int, beta: float32, complement: float32
) -> float32:
    """The running mean, which it moves; the value itself without one."""
    if momentum is None:
        return value
    mean: float32 = momentum[i] * beta + value * complement
    momentum[i] = mean
    return mean


@inlined
def _pack_rows(packed: _Bytes, codes: _Bytes, columns: int, width: _Width) -> None:
    """Eight rows of codes to num_bits rows of bytes."""
    num_bits = len(width)
    for i in range(columns):
        for row in range(num_bits):
            byte = 0
            for j in range(_ROWS):
                left = num_bits * j - 8 * row
                if left >= 0 and left < 8:
                    byte |= codes[j * columns + i] << left
                elif left < 0 and left > -num_bits:
                    byte |= codes[j * columns + i] >> -left
            packed[row * columns + i] = uint8(byte)


@inlined
def _add_rows(sums: _Sums, packed: _Bytes, columns: int, is_first: bool, width: _Width) -> None:
    """The inverse, to level + largest, which is never negative: added to sums, uint16, or, of the
    first ballot, in their place."""
    if is_first:
        for i in range(columns):
            for j in range(_ROWS):
                sums[j * columns + i] = _raised_level(packed, i, j, columns, width)
    else:
        for i in range(columns):
            for j in range(_ROWS):
                sums[j * columns + i] += _raised_level(packed, i, j, columns, width)


@inlined
def _raised_level(packed: _Bytes, i: int, j: int, columns: int, width: _Width) -> uint16:
    num_bits = len(width)
    row, right = divmod(num_bits * j, 8)
    code = packed[row * columns + i] >> right
    if right + num_bits > 8:
        code |= packed[(row + 1) * columns + i] << (8 - right)
    code &= (1 << num_bits) - 1
    # The largest level is a power of 2: codes of positive levels have the top bit.
    raised: uint16 = uint16(code + (code >> (num_bits - 1)))
    return raised


@inlined
def _vote_row(
    codes: _Bytes, sums: _Sums, num_voters: int, bits: _Bytes, bit: uint8, width: _Width
) -> None:
    """`compsgd.codec.combine.vote` on sums of level + largest, as codes; ties broken."""
    largest = float32(1 << (len(width) - 1))
    voters = float32(num_voters)
    share = _ONE / voters
    for i in range(codes.shape[0]):
        total = float32(sums[i]) - voters * largest
        # A half more, so that no quotient is near an integer and rounding cannot matter.
        magnitude = np.floor((abs(total) + (voters - _HALF)) * share)
        code = magnitude + (largest - _ONE) if total > _ZERO else largest - magnitude
        zero = largest if bits[i] & bit else largest - _ONE
        codes[i] = uint8(np.int32(zero if total == _ZERO else code))

"""Packed codes to fewer bytes and back, in loops that Numba compiles (design, section 3).

Levels are not equally frequent, and neighbours are alike: symbols are pairs of neighbouring codes
where those have at most 4 bits, and single codes above. A piece is some whole blocks of 8 rows of
512 columns, num_bits bytes a column; it has a code of its own, and four streams of bits, which are
read side by side: rows 0 and 4 of every block are in the first, 1 and 5 in the second, and so on.

A piece is a word of 32 bits that says how many bytes follow, and in its highest bit whether these
are the packed bytes themselves; then the lengths of the code, a byte for two symbols, the bits of
each stream, a word each, and the streams.

All arrays are one-dimensional and contiguous; `width` is a tuple of num_bits zeros.
"""

from typing import TypeAlias

import numpy as np
from numpy import uint8, uint16, uint32, uint64

from compsgd.codec.entropy import PIECE_BLOCKS, SLACK
from compsgd.codec.huffman_kernels import (
    LONGEST,
    TABLE_SIZE,
    Bytes,
    Counts,
    Table,
    code_lengths,
    code_words,
    fill_table,
)
from compsgd.codec.numba_kernels import compiled, inlined
from compsgd.rng import BIT_BLOCK, BIT_COLUMNS, BIT_ROWS

_ROWS, _COLUMNS, _BLOCK = BIT_ROWS, BIT_COLUMNS, BIT_BLOCK
_NUM_STREAMS = 4
_MOST_PAIRED_BITS = 4
_WORD_BYTES = 4
_IS_PACKED = uint32(1 << 31)
# Wherever damaged streams lead, it can be read.
_SCRATCH_BYTES = PIECE_BLOCKS * _BLOCK * LONGEST // 8 * _NUM_STREAMS + SLACK

_Width: TypeAlias = tuple[int, ...]
# The bits, and how many.
_Bits: TypeAlias = tuple[uint64, uint64]
# Of four streams: entries of the table, and the bits where they go on.
_Entries: TypeAlias = tuple[uint32, uint32, uint32, uint32]
_Places: TypeAlias = tuple[int, int, int, int]


@compiled
def write_pieces(out: Bytes, packed: Bytes, width: _Width) -> int:
    """Whole blocks, piece by piece.

    Args:
        out: written; as many bytes as packed, a word for each piece, and SLACK more.
        packed: whole blocks.
        width: of their codes.

    Returns:
        how many bytes they have become.
    """
    piece_bytes = PIECE_BLOCKS * len(width) * _COLUMNS
    counts = np.empty(_num_symbols(width), np.int64)
    place = 0
    for first in range(0, packed.shape[0], piece_bytes):
        piece, body = packed[first : first + piece_bytes], out[place + _WORD_BYTES :]
        size = _write_piece(body, piece, counts, width)
        if size:
            _write_word(out, place, uint32(size))
        else:
            size = piece.shape[0]
            body[:size] = piece
            _write_word(out, place, uint32(size) | _IS_PACKED)
        place += _WORD_BYTES + size
    return place


@compiled
def _write_piece(body: Bytes, piece: Bytes, counts: Counts, width: _Width) -> int:
    """How many bytes it has become; 0 if it is smaller as it is."""
    symbols = counts.shape[0]
    lengths, words = np.empty(symbols, uint8), np.zeros(symbols, uint16)
    num_stream_bits = np.zeros(_NUM_STREAMS, np.int64)
    counts[:] = 0
    _count_symbols(counts, piece, width)
    code_lengths(lengths, counts)
    code_words(words, lengths)
    bits_at, head_bytes = symbols // 2, _head_bytes(symbols)
    if head_bytes + (counts * lengths).sum() // 8 + _NUM_STREAMS >= piece.shape[0]:
        return 0
    for symbol in range(0, symbols, 2):
        body[symbol // 2] = lengths[symbol] | lengths[symbol + 1] << 4
    size = _write_streams(body[head_bytes:], num_stream_bits, piece, words, lengths, width)
    for stream in range(_NUM_STREAMS):
        _write_word(body, bits_at + _WORD_BYTES * stream, uint32(num_stream_bits[stream]))
    return head_bytes + size


@compiled
def read_pieces(packed: Bytes, coded: Bytes, width: _Width) -> int:
    """The inverse: how many bytes it has read, or -1 where no `write_pieces` has written them."""
    piece_bytes = PIECE_BLOCKS * len(width) * _COLUMNS
    streams = np.zeros(_SCRATCH_BYTES, uint8)
    place = 0
    for first in range(0, packed.shape[0], piece_bytes):
        piece = packed[first : first + piece_bytes]
        if place + _WORD_BYTES > coded.shape[0]:
            return -1
        word = _read_word(coded, place)
        size = np.int64(word & ~_IS_PACKED)
        place += _WORD_BYTES
        if place + size > coded.shape[0]:
            return -1
        body = coded[place : place + size]
        place += size
        if word & _IS_PACKED:
            if size != piece.shape[0]:
                return -1
            piece[:] = body
        elif not _read_piece(piece, body, streams, width):
            return -1
    return place


@compiled
def _read_piece(piece: Bytes, body: Bytes, streams: Bytes, width: _Width) -> bool:
    """Whether it could be read.

    Args:
        streams: memory.
    """
    symbols = _num_symbols(width)
    head_bytes = _head_bytes(symbols)
    lengths, words = np.empty(symbols, uint8), np.zeros(symbols, uint16)
    table = np.empty(TABLE_SIZE, uint16)
    num_stream_bits, starts = np.empty(_NUM_STREAMS, np.int64), np.empty(_NUM_STREAMS, np.int64)
    if body.shape[0] < head_bytes or body.shape[0] >= piece.shape[0]:
        return False
    for symbol in range(0, symbols, 2):
        lengths[symbol] = body[symbol // 2] & 15
        lengths[symbol + 1] = body[symbol // 2] >> 4
    if not code_words(words, lengths):
        return False
    fill_table(table, words, lengths)
    end = 0
    for stream in range(_NUM_STREAMS):
        num_bits = np.int64(_read_word(body, symbols // 2 + _WORD_BYTES * stream))
        num_stream_bits[stream], starts[stream] = num_bits, end
        end += (num_bits + 7) // 8
    if end != body.shape[0] - head_bytes:
        return False
    streams[:end] = body[head_bytes:]
    streams[end : end + SLACK] = 0
    return _read_streams(piece, streams, starts, num_stream_bits, table, width)


@inlined
def _num_symbols(width: _Width) -> int:
    """2^num_bits codes, or pairs of them."""
    num_bits = len(width)
    return 1 << (2 * num_bits if num_bits <= _MOST_PAIRED_BITS else num_bits)


@inlined
def _head_bytes(symbols: int) -> int:
    return symbols // 2 + _NUM_STREAMS * _WORD_BYTES


@inlined
def _write_word(out: Bytes, place: int, word: uint32) -> None:
    for i in range(_WORD_BYTES):
        out[place + i] = uint8(word >> uint32(8 * i) & uint32(0xFF))


@inlined
def _read_word(coded: Bytes, place: int) -> uint32:
    word: uint32 = uint32(0)
    for i in range(_WORD_BYTES):
        word = uint32(word | uint32(coded[place + i]) << uint32(8 * i))
    return word


@compiled
def _count_symbols(counts: Counts, packed: Bytes, width: _Width) -> None:
    """Adds up how often each symbol occurs in whole blocks."""
    block_bytes = len(width) * _COLUMNS
    for first in range(0, packed.shape[0], block_bytes):
        block = packed[first : first + block_bytes]
        for column in range(0, _COLUMNS, 2):
            one, other = _word(block, column, width), _word(block, column + 1, width)
            for row in range(_ROWS):
                if len(width) <= _MOST_PAIRED_BITS:
                    counts[_pair(one, other, row, width)] += 1
                else:
                    counts[_single(one, row, width)] += 1
                    counts[_single(other, row, width)] += 1


@compiled
def _write_streams(
    out: Bytes, num_stream_bits: Counts, packed: Bytes, words: Table, lengths: Bytes, width: _Width
) -> int:
    """The symbols of whole blocks, into four streams one behind the other.

    Args:
        out: as many bytes as they take.
        num_stream_bits: of each stream; written.
        packed: whole blocks.
        words, lengths: of the code.
        width: of their codes.

    Returns:
        how many bytes they have taken.
    """
    block_bytes = len(width) * _COLUMNS
    place = 0
    for stream in range(_NUM_STREAMS):
        first_place, bits = place, (uint64(0), uint64(0))
        for first in range(0, packed.shape[0], block_bytes):
            block = packed[first : first + block_bytes]
            for column in range(0, _COLUMNS, 2):
                one, other = _word(block, column, width), _word(block, column + 1, width)
                for row in range(stream, _ROWS, _NUM_STREAMS):
                    bits = _add_symbols(bits, one, other, row, words, lengths, width)
                # At most 7 bits are left, and four words of 12 bits come.
                while bits[1] >= uint64(8):
                    out[place] = uint8(bits[0] & uint64(0xFF))
                    bits = (bits[0] >> uint64(8), bits[1] - uint64(8))
                    place += 1
        num_stream_bits[stream] = 8 * (place - first_place) + np.int64(bits[1])
        if bits[1]:
            out[place] = uint8(bits[0])
            place += 1
    return place


@inlined
def _add_symbols(
    bits: _Bits, one: uint64, other: uint64, row: int, words: Table, lengths: Bytes, width: _Width
) -> _Bits:
    """Behind the bits that there are, lowest first, and their number: two codes of a row."""
    if len(width) <= _MOST_PAIRED_BITS:
        return _add_symbol(bits, _pair(one, other, row, width), words, lengths)
    bits = _add_symbol(bits, _single(one, row, width), words, lengths)
    return _add_symbol(bits, _single(other, row, width), words, lengths)


@inlined
def _add_symbol(bits: _Bits, symbol: int, words: Table, lengths: Bytes) -> _Bits:
    return bits[0] | uint64(words[symbol]) << bits[1], bits[1] + uint64(lengths[symbol])


@compiled
def _read_streams(
    packed: Bytes, streams: Bytes, starts: Counts, num_stream_bits: Counts, table: Table,
    width: _Width,
) -> bool:  # fmt: skip
    """The inverse, to whole blocks; whether the streams end where they should.

    Args:
        packed: written.
        streams: readable wherever they may lead.
        starts: the first byte of each stream.
        num_stream_bits: of each.
        table: of the code.
        width: of the codes.
    """
    num_bits = len(width)
    ends = 8 * starts + num_stream_bits
    at = (8 * starts[0], 8 * starts[1], 8 * starts[2], 8 * starts[3])
    is_bad = False
    for first in range(0, packed.shape[0], num_bits * _COLUMNS):
        for column in range(0, _COLUMNS, 2):
            one, other = uint64(0), uint64(0)
            for row in range(0, _ROWS, _NUM_STREAMS):
                shift = uint64(row * num_bits)
                found, at = _look_up_four(streams, at, table)
                is_bad |= _lacks_one(found)
                one |= _four_codes(found, 0, width) << shift
                if num_bits > _MOST_PAIRED_BITS:
                    found, at = _look_up_four(streams, at, table)
                    is_bad |= _lacks_one(found)
                    other |= _four_codes(found, 0, width) << shift
                else:
                    other |= _four_codes(found, num_bits, width) << shift
            for row in range(num_bits):
                place = first + row * _COLUMNS + column
                packed[place] = uint8((one >> uint64(8 * row)) & uint64(0xFF))
                packed[place + 1] = uint8((other >> uint64(8 * row)) & uint64(0xFF))
    is_right: bool = at[0] == ends[0] and at[1] == ends[1] and at[2] == ends[2] and at[3] == ends[3]
    return is_right and not is_bad


@inlined
def _look_up_four(streams: Bytes, at: _Places, table: Table) -> tuple[_Entries, _Places]:
    """A symbol of each stream, and the places behind them."""
    a, b = _look_up(streams, at[0], table), _look_up(streams, at[1], table)
    c, d = _look_up(streams, at[2], table), _look_up(streams, at[3], table)
    return (a, b, c, d), (at[0] + (a >> 8), at[1] + (b >> 8), at[2] + (c >> 8), at[3] + (d >> 8))


@inlined
def _look_up(streams: Bytes, place: int, table: Table) -> uint32:
    """What the bits from a place on begin with: a symbol, and above it its length."""
    byte = place >> 3
    word = uint32(streams[byte]) | uint32(streams[byte + 1]) << uint32(8)
    word |= uint32(streams[byte + 2]) << uint32(16)
    found: uint32 = uint32(table[(word >> uint32(place & 7)) & uint32(TABLE_SIZE - 1)])
    return found


@inlined
def _lacks_one(found: _Entries) -> bool:
    """Whether some bits were no symbol."""
    return bool(found[0] == 0 or found[1] == 0 or found[2] == 0 or found[3] == 0)


@inlined
def _four_codes(found: _Entries, right: int, width: _Width) -> uint64:
    """Of four symbols, the codes that stand so far up in them, side by side."""
    num_bits = len(width)
    mask = uint32((1 << num_bits) - 1)
    codes: uint64 = uint64(0)
    for i in range(_NUM_STREAMS):
        codes |= uint64((found[i] >> uint32(right)) & mask) << uint64(i * num_bits)
    return codes


@inlined
def _word(block: Bytes, column: int, width: _Width) -> uint64:
    """The eight codes of a column, the first one lowest."""
    word: uint64 = uint64(0)
    for row in range(len(width)):
        word |= uint64(block[row * _COLUMNS + column]) << uint64(8 * row)
    return word


@inlined
def _pair(one: uint64, other: uint64, row: int, width: _Width) -> int:
    return _single(one, row, width) | _single(other, row, width) << len(width)


@inlined
def _single(word: uint64, row: int, width: _Width) -> int:
    num_bits = len(width)
    code: int = np.int64((word >> uint64(num_bits * row)) & uint64((1 << num_bits) - 1))
    return code

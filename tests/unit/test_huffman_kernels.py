"""Huffman's code: as short as can be, canonical, complete, and never longer than the table."""

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compsgd.codec.huffman_kernels import (
    LONGEST,
    TABLE_SIZE,
    code_lengths,
    code_words,
    fill_table,
)


def lengths_of(counts):
    lengths = np.full(len(counts), 99, np.uint8)
    code_lengths(lengths, np.array(counts, np.int64))
    return lengths


def total_of_huffman(counts):
    """Bits of all symbols by the textbook: the sum of all inner nodes."""
    heap = [count for count in counts if count]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


@given(st.lists(st.integers(0, 50), min_size=2, max_size=64).filter(lambda counts: sum(counts) > 0))
def test_no_code_is_shorter(counts):
    lengths = lengths_of(counts)
    assert [length > 0 for length in lengths] == [count > 0 for count in counts]
    if sum(count > 0 for count in counts) > 1 and lengths.max() < LONGEST:
        assert (lengths * np.array(counts)).sum() == total_of_huffman(counts)


def test_deep_trees_are_cut():
    """Fibonacci's weights make a tree as deep as there are symbols."""
    counts = [1, 1]
    while len(counts) < 30:
        counts.append(counts[-1] + counts[-2])
    lengths = lengths_of(counts)
    assert lengths.max() <= LONGEST
    assert sum(2.0 ** -int(length) for length in lengths) == 1


@given(st.lists(st.integers(0, 9), min_size=2, max_size=256).filter(lambda counts: sum(counts) > 0))
def test_every_string_of_bits_begins_with_one_word(counts):
    lengths = lengths_of(counts)
    words, table = np.zeros(len(counts), np.uint16), np.zeros(TABLE_SIZE, np.uint16)
    assert code_words(words, lengths)
    fill_table(table, words, lengths)
    for symbol, (word, length) in enumerate(zip(words.tolist(), lengths.tolist(), strict=True)):
        if length:
            begins = np.arange(TABLE_SIZE) & ((1 << length) - 1) == word
            assert (table[begins] == (symbol | length << 8)).all()
    num_used = np.count_nonzero(lengths)
    assert np.count_nonzero(table) == (TABLE_SIZE if num_used > 1 else TABLE_SIZE // 2)


def test_words_are_canonical():
    """By length, and then by symbol; the first bit is the lowest."""
    words = np.zeros(4, np.uint16)
    assert code_words(words, np.array([2, 1, 3, 3], np.uint8))
    # 10, 0, 110 and 111, read from the first bit on.
    assert words.tolist() == [0b01, 0b0, 0b011, 0b111]


@pytest.mark.parametrize("lengths", [[1, 1, 1], [1, 2], [2, 0], [0, 0], [1, 2, 13], [15, 15]])
def test_lengths_of_no_code_are_refused(lengths):
    assert not code_words(np.zeros(len(lengths), np.uint16), np.array(lengths, np.uint8))

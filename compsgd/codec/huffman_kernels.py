"""Huffman's code in loops that Numba compiles: how long a symbol's word is, which it is, and what a
string of bits begins with (design, section 3)."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy import uint8, uint16

from compsgd.codec.numba_kernels import compiled, inlined

# Of a symbol at most: the decoder looks so many bits up at once.
LONGEST = 12
TABLE_SIZE = 1 << LONGEST

Bytes: TypeAlias = npt.NDArray[uint8]
Table: TypeAlias = npt.NDArray[uint16]
Counts: TypeAlias = npt.NDArray[np.int64]


@compiled
def code_lengths(lengths: Bytes, counts: Counts) -> None:
    """Huffman's: bits of each symbol, 0 for what does not occur, and at most LONGEST. Where the
    tree is deeper, rare symbols are taken to be less rare."""
    used = np.nonzero(counts)[0]
    lengths[:] = 0
    if used.shape[0] == 1:
        lengths[used[0]] = 1
        return
    weights = counts[used]
    while True:
        depths = _depths(weights)
        if depths.max() <= LONGEST:
            break
        weights = weights // 2 + 1
    for i in range(used.shape[0]):
        lengths[used[i]] = depths[i]


@compiled
def _depths(weights: Counts) -> Counts:
    """Of the leaves of Huffman's tree; at least two."""
    num_leaves = weights.shape[0]
    order = np.argsort(weights, kind="mergesort")
    total = np.empty(2 * num_leaves - 1, np.int64)
    total[:num_leaves] = weights[order]
    parent = np.zeros(2 * num_leaves - 1, np.int64)
    # Leaves by weight, and inner nodes as they are made, are two queues in ascending order.
    leaf, inner = 0, num_leaves
    for made in range(num_leaves, 2 * num_leaves - 1):
        total[made] = 0
        for _ in range(2):
            if leaf < num_leaves and (inner == made or total[leaf] <= total[inner]):
                child = leaf
                leaf += 1
            else:
                child = inner
                inner += 1
            parent[child] = made
            total[made] += total[child]
    depth = np.zeros(2 * num_leaves - 1, np.int64)
    for node in range(2 * num_leaves - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
    found = np.empty(num_leaves, np.int64)
    found[order] = depth[:num_leaves]
    return found


@compiled
def code_words(words: Table, lengths: Bytes) -> bool:
    """The canonical code of these lengths, first bit lowest; whether there is one: no longer than
    LONGEST, with a word for every string of bits, or of one symbol of one bit."""
    if not _is_code(lengths):
        return False
    nexts = np.zeros(LONGEST + 2, np.int64)
    for length in lengths:
        nexts[length + 1] += 1 if length else 0
    # The first word of each length.
    word = 0
    for length in range(1, LONGEST + 1):
        word = (word + nexts[length]) << 1
        nexts[length] = word
    for symbol in range(lengths.shape[0]):
        length = lengths[symbol]
        if length:
            words[symbol] = _reversed(nexts[length], length)
            nexts[length] += 1
    return True


@inlined
def _is_code(lengths: Bytes) -> bool:
    used, filled = 0, 0
    for length in lengths:
        if length > LONGEST:
            return False
        if length:
            used += 1
            filled += TABLE_SIZE >> length
    return filled == TABLE_SIZE or (used == 1 and filled == TABLE_SIZE // 2)


@inlined
def _reversed(word: int, length: int) -> int:
    found = 0
    for _ in range(length):
        found = found << 1 | (word & 1)
        word >>= 1
    return found


@compiled
def fill_table(table: Table, words: Table, lengths: Bytes) -> None:
    """What each LONGEST bits begin with: a symbol and, above its 8 bits, its length; 0 for
    nothing."""
    table[:] = 0
    for symbol in range(lengths.shape[0]):
        length = lengths[symbol]
        if length:
            entry = uint16(symbol | length << 8)
            for index in range(words[symbol], TABLE_SIZE, 1 << length):
                table[index] = entry

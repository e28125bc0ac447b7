"""How a vector lies in blocks of rows: what the kernels work on (design, section 3).

A vector is cut into blocks of 512 groups. What remains is the tail: one narrower block of its
whole groups, then one group in part. Inside a block the elements that share a byte lie in one
column: rows of contiguous elements meet in vector operations. Nothing is padded but the last byte.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compsgd.codec.alphabet import Alphabet
from compsgd.codec.bit_packing import LANES, Group, group_for
from compsgd.layout import Span
from compsgd.rng import BIT_COLUMNS

# Random bits are laid out as the blocks that they are for.
BLOCK_COLUMNS = BIT_COLUMNS

# The rows of the first so many symbols of a group.
_PartRows = Callable[[int], list[int]]


@dataclass(frozen=True)
class Blocks:
    """Some blocks, or the tail, of a vector: its elements, and its bytes in the packed whole.

    The methods come in pairs that undo each other: from these elements of a vector to rows, and
    back. Rows of whole blocks are views; those of a tail are copies, filled up with zeros to whole
    lanes, or, if it `is_filled`, to as many whole blocks as compiled code can count.
    """

    elements: Span
    bytes: Span
    group: Group
    is_tail: bool
    is_filled: bool = False

    @property
    def num_blocks(self) -> int:
        """The first size of rows."""
        if self.is_tail:
            return 2 if self.is_filled else 1
        return self.elements.numel // (BLOCK_COLUMNS * self.group.num_elements)

    def rows(self, flat: Tensor) -> Tensor:
        """Elements, shape (elements.numel,), to (blocks, group.num_elements, columns)."""
        return self._to_rows(flat, self.group.num_elements, self.group.part_rows)

    def flat(self, rows: Tensor) -> Tensor:
        """The inverse of rows."""
        return self._to_flat(rows, self.group.part_rows)

    def byte_rows(self, packed: Tensor) -> Tensor:
        """uint8, shape (bytes.numel,), to (blocks, group.num_bytes, columns)."""
        return self._to_rows(packed, self.group.num_bytes, self.group.part_byte_rows)

    def flat_bytes(self, rows: Tensor) -> Tensor:
        """The inverse of byte_rows."""
        return self._to_flat(rows, self.group.part_byte_rows)

    def _to_rows(self, flat: Tensor, num_rows: int, part_rows: _PartRows) -> Tensor:
        if not self.is_tail:
            return flat.view(self.num_blocks, num_rows, BLOCK_COLUMNS)
        groups, part = self._tail
        rows = flat.new_zeros(self.num_blocks, num_rows, self._tail_columns)
        whole = groups * num_rows
        rows[0, :, :groups] = flat[:whole].view(num_rows, groups)
        if part:
            rows[0, part_rows(part), groups] = flat[whole:]
        return rows

    def _to_flat(self, rows: Tensor, part_rows: _PartRows) -> Tensor:
        if not self.is_tail:
            return rows.view(-1)
        groups, part = self._tail
        whole = rows[0, :, :groups].flatten()
        if not part:
            return whole
        return torch.cat([whole, rows[0, part_rows(part), groups]])

    def padding(self, packed: Tensor) -> Tensor:
        """What the group in part at the end of some tails holds beside its elements: uint8, 0 in
        what a packer has written.

        Args:
            packed: uint8, shape (tails, bytes.numel).
        """
        _, part = self._tail
        if self.group.digits == 1:
            used_bits = part * self.group.word_bits % 8
            return packed[:, -1] >> used_bits if used_bits else packed[:, :0]
        byte_rows = self.group.part_byte_rows(part)
        rows = packed.new_zeros(packed.shape[0], self.group.num_bytes, LANES)
        rows[:, byte_rows, 0] = packed[:, packed.shape[1] - len(byte_rows) :]
        codes = self.group.decode(rows)
        codes[:, self.group.part_rows(part)] = 0
        return codes

    @property
    def _tail(self) -> tuple[int, int]:
        """Whole groups, and the elements of the group in part."""
        return divmod(self.elements.numel, self.group.num_elements)

    @property
    def _tail_columns(self) -> int:
        if self.is_filled:
            return BLOCK_COLUMNS
        groups, part = self._tail
        columns = groups + (1 if part else 0)
        return -(-columns // LANES) * LANES


def packed_size(numel: int, alphabet: Alphabet) -> int:
    """Bytes that `numel` levels of any alphabet take."""
    group = group_for(alphabet)
    groups, part = divmod(numel, group.num_elements)
    return groups * group.num_bytes + len(group.part_byte_rows(part))


def shard_size(numel: int, alphabet: Alphabet) -> int:
    """Bytes that a shard of `numel` levels takes on the wire: whole 32-bit words, so that several
    can lie in one tensor and be read as words."""
    return -(-packed_size(numel, alphabet) // LANES) * LANES


def blocks_of(
    numel: int, alphabet: Alphabet, max_numel: int, fill_tail: bool = False
) -> Iterator[Blocks]:
    """Cuts a vector of levels into blocks of at most about `max_numel` elements at a time, that can
    be packed one by one: of nearly equal size, since compiled code wants two blocks; then the
    tail."""
    group = group_for(alphabet)
    block_numel = BLOCK_COLUMNS * group.num_elements
    block_bytes = BLOCK_COLUMNS * group.num_bytes
    num_blocks = numel // block_numel
    count = -(-num_blocks // max(1, max_numel // block_numel))
    for i in range(count):
        first, end = i * num_blocks // count, (i + 1) * num_blocks // count
        elements = Span(first * block_numel, end * block_numel)
        yield Blocks(elements, Span(first * block_bytes, end * block_bytes), group, is_tail=False)
    if numel % block_numel:
        elements = Span(num_blocks * block_numel, numel)
        its_bytes = Span(num_blocks * block_bytes, packed_size(numel, alphabet))
        yield Blocks(elements, its_bytes, group, is_tail=True, is_filled=fill_tail)

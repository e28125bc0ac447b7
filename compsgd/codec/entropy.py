"""An entropy coder for packed codes: the same bytes in fewer, where levels are not equally frequent
(design, section 3)."""

import torch
from torch import Tensor

from compsgd.codec.alphabet import Alphabet
from compsgd.codec.bit_packing import group_for
from compsgd.codec.blocks import packed_size
from compsgd.errors import DamagedDataError
from compsgd.rng import BIT_BLOCK

# Blocks of a piece: enough for its code to weigh little, and few enough for levels to be alike.
PIECE_BLOCKS = 16
# Bytes that are written or read at once behind an end.
SLACK = 8
_FEWEST_BITS, _MOST_BITS = 2, 8
_WORD_BYTES = 4


class EntropyCoder:
    """Packed codes of one alphabet to coded bytes, which say by themselves where they end.

    What does not get smaller travels as it is: the tail of a vector behind its whole blocks, and
    pieces whose levels are as good as random.
    """

    def __init__(self, alphabet: Alphabet) -> None:
        """
        Args:
            alphabet: one that `suits`.
        """
        # Not at the top: Numba takes half a second, which those without a coder should not pay.
        from compsgd.codec import entropy_kernels

        self._loops = entropy_kernels
        self._alphabet = alphabet
        self._width = (0,) * group_for(alphabet).word_bits

    @staticmethod
    def suits(alphabet: Alphabet | None) -> bool:
        """Whether there is a coder: a word is one code, of 2 to 8 bits."""
        if alphabet is None:
            return False
        group = group_for(alphabet)
        return group.digits == 1 and _FEWEST_BITS <= group.word_bits <= _MOST_BITS

    def extra_bytes(self, packed_bytes: int) -> int:
        """How many more so many packed bytes may become."""
        piece_bytes = BIT_BLOCK // 8 * len(self._width) * PIECE_BLOCKS
        return -(-packed_bytes // piece_bytes) * _WORD_BYTES

    def encode(self, out: Tensor, packed: Tensor, numel: int) -> int:
        """Writes coded bytes, and returns how many.

        Args:
            out: uint8, with room for the packed bytes, `extra_bytes` and SLACK.
            packed: uint8, as `Codec.pack` has written it.
            numel: how many elements.
        """
        whole = self._whole_bytes(numel)
        size: int = self._loops.write_pieces(out.numpy(), packed[:whole].numpy(), self._width)
        tail = packed[whole : packed_size(numel, self._alphabet)]
        out[size : size + tail.numel()] = tail
        return size + tail.numel()

    def decode(self, packed: Tensor, coded: Tensor, numel: int) -> int:
        """The inverse, up to the end of what is packed, behind which come zeros: how many bytes of
        `coded` it took.

        Raises:
            DamagedDataError: bytes that `encode` could not have written.
        """
        whole, end = self._whole_bytes(numel), packed_size(numel, self._alphabet)
        size: int = self._loops.read_pieces(packed[:whole].numpy(), coded.numpy(), self._width)
        tail = coded[max(size, 0) :][: end - whole]
        if size < 0 or tail.numel() < end - whole:
            raise DamagedDataError("coded levels are damaged: no coder writes such bytes")
        packed[whole:end] = tail
        packed[end:] = 0
        return size + tail.numel()

    def _whole_bytes(self, numel: int) -> int:
        """Of the packed whole blocks."""
        return numel // BIT_BLOCK * BIT_BLOCK // 8 * len(self._width)


def new_buffer(num_bytes: int) -> Tensor:
    """Memory for so many coded bytes, uint8."""
    return torch.empty(num_bytes + SLACK, dtype=torch.uint8)

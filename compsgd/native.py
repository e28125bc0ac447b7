"""Ballots of a power of 2 of levels on the CPU, coded and counted by compiled loops."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compsgd import loops
from compsgd.alphabet import Alphabet, ballot_alphabet, max_level
from compsgd.flat import Run
from compsgd.pieces import packed_size
from compsgd.randomness import COIN_BLOCK, COIN_ROWS, block_coins

# Sums of levels are counted in 16 bits.
_MAX_SUM = 0xFFFF


class Coins(NamedTuple):
    """The random bits of a vector, those of `compsgd.randomness`.

    Attributes:
        bytes: uint8, flat, of whole blocks: a byte for 8 elements.
        offset: where in them the vector begins.
    """

    bytes: Tensor
    offset: int


class NativeCodec:
    """The work on ballots of one alphabet without zeros; tensors are contiguous and on the CPU."""

    def __init__(self, num_bits: int) -> None:
        self.num_bits = num_bits
        self._alphabet = ballot_alphabet(num_bits, zeros=False)
        self._width = (0,) * num_bits

    def may_count(self, num_workers: int) -> bool:
        """Whether so many ballots can be added up."""
        return num_workers * 2 * self._alphabet.largest <= _MAX_SUM

    def coins(self, key: int, start: int, numel: int) -> Coins:
        """Those of elements start..start+numel-1 of the flat vector of all parameters."""
        offset = start % COIN_BLOCK
        num_blocks = -(-(offset + numel) // COIN_BLOCK)
        found = block_coins(key, start - offset, num_blocks, hash_words=_hash_words)
        return Coins(found.view(-1), offset)

    def code_levels(
        self,
        codes: Tensor,
        gradient: Tensor,
        bounds: Sequence[Tensor],
        decays: Sequence[float],
        coins: Coins,
        start: int,
    ) -> None:
        """Updates the range of a run of elements, and writes the codes of the gradient within it.

        Args:
            codes: uint8, of these elements.
            gradient: float32, the same.
            bounds: (maximum, minimum), float32, the same; updated in place.
            decays: (decay_max, decay_min).
            coins: of the vector.
            start: of the run in the vector.
        """
        maximum, minimum = bounds
        decay_max, decay_min = decays
        loops.code_levels(
            codes.numpy(),
            gradient.numpy(),
            maximum.numpy(),
            minimum.numpy(),
            np.float32(decay_max),
            np.float32(decay_min),
            coins.bytes.numpy(),
            coins.offset + start,
            self._width,
        )

    def code_signs(self, codes: Tensor, gradient: Tensor, coins: Coins) -> None:
        """Writes the codes of the signs of a vector."""
        loops.code_signs(codes.numpy(), gradient.numpy(), coins.bytes.numpy(), coins.offset)

    def pack(self, packed: Tensor, codes: Tensor) -> None:
        """Packs a vector of codes into a shard of the wire, which ends in zeros."""
        num_bytes = packed_size(codes.numel(), self._alphabet)
        loops.pack(packed[:num_bytes].numpy(), codes.numpy(), self._width)
        packed[num_bytes:] = 0

    def vote(
        self, codes: Tensor, ballots: Tensor, voters: Sequence[int], coins: Coins, run: Run
    ) -> None:
        """Counts a run of elements.

        Args:
            codes: uint8, of the whole vector.
            ballots: uint8, shape (num_workers, num_bytes or more), rows contiguous.
            voters: the workers that vote.
            coins: of the vector, for ties.
            run: of the vector; of what lies outside, codes stay as they are.
        """
        (num_workers, num_bytes), stride = ballots.shape, ballots.stride(0)
        flat = ballots.as_strided(((num_workers - 1) * stride + num_bytes,), (1,))
        starts = np.array([voter * stride for voter in voters], dtype=np.int64)
        loops.vote(
            codes.numpy(),
            flat.numpy(),
            starts,
            packed_size(codes.numel(), self._alphabet),
            coins.bytes.numpy(),
            coins.offset,
            *run,
            self._width,
        )

    def unpack(self, codes: Tensor, packed: Tensor) -> None:
        """The inverse of pack."""
        whole = Run(0, codes.numel())
        # One voter never ties.
        num_coins = -(-whole.numel // COIN_BLOCK) * COIN_BLOCK // COIN_ROWS
        unused = Coins(torch.zeros(num_coins, dtype=torch.uint8), 0)
        self.vote(codes, packed[None], [0], unused, whole)

    def sum_levels(self, codes: Tensor) -> int:
        """The sum of the levels' magnitudes."""
        return int(loops.sum_levels(codes.numpy(), self._width))

    def write_levels(self, out: Tensor, codes: Tensor, scale: float = 1.0) -> None:
        """scale * level, float32, into `out`."""
        loops.write_levels(out.numpy(), codes.numpy(), np.float32(scale), self._width)

    @staticmethod
    def sum_magnitudes(values: Tensor) -> float:
        """The sum of |x| over a float32 tensor; not finite if any x is not."""
        return float(loops.sum_magnitudes(values.numpy()))


def codec_for(alphabet: Alphabet) -> NativeCodec | None:
    """None for an alphabet with zeros, or one that is no ballot's."""
    num_bits = alphabet.largest.bit_length()
    if alphabet.zeros or alphabet.largest != max_level(num_bits) or num_bits > 8:
        return None
    return NativeCodec(num_bits)


def _hash_words(positions: Tensor, key: Tensor) -> Tensor:
    words = torch.empty_like(positions)
    first_key, second_key = key.numpy().view(np.uint32)
    loops.hash_positions(_as_words(words), _as_words(positions), first_key, second_key)
    return words


def _as_words(integers: Tensor) -> npt.NDArray[np.uint32]:
    return integers.numpy().reshape(-1).view(np.uint32)

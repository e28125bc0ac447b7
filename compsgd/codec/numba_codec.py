"""The codec in loops that Numba compiles, for a power of 2 of levels on a CPU.

What there are no loops for, exp bins and exact means, is left to the codec in torch.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compsgd.codec import numba_kernels as loops
from compsgd.codec.base import Codec, CodecSpec, Memory, dirty_padding
from compsgd.codec.binning import has_loop
from compsgd.codec.combine import Combine, Vote
from compsgd.gradient import Gradient
from compsgd.layout import Span, Voters
from compsgd.rng import BIT_BLOCK, BIT_COLUMNS, BitStream

# Few enough for the cache.
_CHUNK_NUMEL = 1 << 16
# Sums of levels are counted in 16 bits.
_MAX_SUM = 0xFFFF

_Bytes: TypeAlias = npt.NDArray[np.uint8]


class _RandomBits(NamedTuple):
    """The random bits of a vector: a byte for 8 elements, in whole blocks, and where in them the
    vector begins."""

    bytes: _Bytes
    offset: int


class NumbaCodec:
    """See `compsgd.codec.base.Codec`."""

    chunk_numel = _CHUNK_NUMEL

    def __init__(self, spec: CodecSpec, in_torch: Codec) -> None:
        """
        Args:
            spec: of an alphabet without zeros, on a CPU.
            in_torch: the same codec, for what there are no loops for.
        """
        self.alphabet = spec.alphabet
        self._has_bins = has_loop(spec.binning)
        self._in_torch = in_torch
        self._num_bits = spec.alphabet.largest.bit_length()
        # Its length is part of its type, so that every shift is by a constant.
        self._width = (0,) * self._num_bits

    def encode(
        self, codes: Tensor, gradient: Gradient, memory: Memory, bits: BitStream | None
    ) -> None:
        if not self._has_bins or bits is None:
            self._in_torch.encode(codes, gradient, memory, bits)
            return
        random_bits = _random_bits(bits, codes.numel())
        rates = tuple(map(np.float32, memory.rates))
        bounds = None
        if memory.bounds is not None:
            bounds = memory.bounds[0].numpy(), memory.bounds[1].numpy()
        momentum, error = (
            None if one is None else one.numpy() for one in (memory.momentum, memory.error)
        )
        for span, values in gradient.parts:
            loops.encode(
                codes.numpy(), values.numpy(), span.start, bounds, momentum, error, rates,
                random_bits.bytes, random_bits.offset, self._width,
            )  # fmt: skip

    def pack(self, packed: Tensor, codes: Tensor) -> None:
        num_bytes = self._packed_size(codes.numel())
        loops.pack(packed[:num_bytes].numpy(), codes.numpy(), self._width)
        packed[num_bytes:] = 0

    def unpack(self, codes: Tensor, packed: Tensor) -> None:
        # One voter never ties.
        num_blocks = -(-codes.numel() // BIT_BLOCK)
        no_bits = _RandomBits(np.zeros(num_blocks * BIT_COLUMNS, np.uint8), 0)
        self._vote(codes, packed[None], Voters(Span(0, codes.numel()), (0,)), no_bits)

    def check(self, packed: Tensor, numel: int) -> None:
        num_bytes = self._packed_size(numel)
        used_bits = numel * self._num_bits % 8
        if bool(packed[:, num_bytes:].any()) or (
            used_bits and bool((packed[:, num_bytes - 1] >> used_bits).any())
        ):
            raise dirty_padding()

    def count(
        self,
        codes: Tensor,
        ballots: Tensor,
        voters: Sequence[Voters],
        combine: Combine,
        bits: BitStream | None,
    ) -> None:
        if type(combine) is not Vote or bits is None or not self.may_count(len(ballots)):
            self._in_torch.count(codes, ballots, voters, combine, bits)
            return
        if sum(span.numel for span, _ in voters) < codes.numel():
            # Any code will do where nobody votes, but it must be one.
            codes.zero_()
        random_bits = _random_bits(bits, codes.numel())
        for its_voters in voters:
            self._vote(codes, ballots, its_voters, random_bits)

    def may_count(self, num_workers: int) -> bool:
        """Whether the levels of so many ballots can be added up."""
        return num_workers * 2 * self.alphabet.largest <= _MAX_SUM

    def decode(self, out: Tensor, codes: Tensor, scale: float = 1.0) -> None:
        values = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
        loops.write_levels(values.numpy(), codes.numpy(), np.float32(scale), self._width)
        if values is not out:
            out.copy_(values)

    def magnitudes(self, parts: Sequence[Tensor]) -> list[float]:
        return [float(loops.sum_magnitudes(values.numpy())) for values in parts]

    def level_magnitudes(self, parts: Sequence[Tensor]) -> list[float]:
        return [float(loops.sum_levels(codes.numpy(), self._width)) for codes in parts]

    def _packed_size(self, numel: int) -> int:
        return -(-numel * self._num_bits // 8)

    def _vote(
        self, codes: Tensor, ballots: Tensor, voters: Voters, random_bits: _RandomBits
    ) -> None:
        """On one span; outside of it codes stay as they are."""
        (num_workers, num_bytes), stride = ballots.shape, ballots.stride(0)
        flat = ballots.as_strided(((num_workers - 1) * stride + num_bytes,), (1,))
        starts = np.array([worker * stride for worker in voters.workers], dtype=np.int64)
        loops.vote(
            codes.numpy(), flat.numpy(), starts, self._packed_size(codes.numel()),
            random_bits.bytes, random_bits.offset, *voters.span, self._width,
        )  # fmt: skip


def _random_bits(bits: BitStream, numel: int) -> _RandomBits:
    """Those of `compsgd.rng.block_bits`, from the block on in which the vector begins."""
    block, offset = divmod(bits.start, BIT_BLOCK)
    num_words = -(-(offset + numel) // BIT_BLOCK) * BIT_COLUMNS // 4
    words = np.empty(num_words, np.uint32)
    first_key = (bits.key + block * BIT_COLUMNS // 4) & 0xFFFFFFFF
    loops.random_words(words, np.uint32(first_key), np.uint32(bits.key >> 32))
    if sys.byteorder == "big":
        words.byteswap(inplace=True)
    return _RandomBits(words.view(np.uint8), offset)

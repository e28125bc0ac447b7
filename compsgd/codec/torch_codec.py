"""The codec in plain torch: any alphabet on any device, eagerly or through torch.compile."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from compsgd.codec import torch_kernels as kernels
from compsgd.codec.alphabet import Alphabet
from compsgd.codec.base import CodecSpec, Memory, dirty_padding
from compsgd.codec.bit_packing import LANES, group_for
from compsgd.codec.blocks import Blocks, packed_size
from compsgd.codec.combine import Combine
from compsgd.codec.compiling import Compiler, compiler_named
from compsgd.errors import DamagedDataError
from compsgd.gradient import Gradient
from compsgd.layout import Voters, voters_within
from compsgd.rng import BitStream, block_bits, gather_bits, hash_positions, random_bits

# Compiled code names every ballot that it adds up: more of them go in several calls.
BALLOTS_AT_ONCE = 16
# Decoded at once: few enough for a cache, or as many as a device's call is worth.
_CHUNK_NUMEL = 1 << 16
_DEVICE_CHUNK_NUMEL = 1 << 21
# Of vectors whose elements need not lie in groups.
_ROW = 4096


_CountKernel: TypeAlias = Callable[
    [Tensor, Tensor | None, Sequence[Tensor], Tensor, Tensor, Tensor | None], Tensor
]


class _VoterSet(NamedTuple):
    """What kernels want to know of the voters: int32 masks of all N workers, and how many."""

    weights: Tensor
    num_voters: Tensor


class TorchCodec:
    """See `compsgd.codec.base.Codec`."""

    def __init__(self, spec: CodecSpec, compiler: Compiler) -> None:
        self.alphabet = spec.alphabet
        self.chunk_numel = _CHUNK_NUMEL if spec.device_type == "cpu" else _DEVICE_CHUNK_NUMEL
        self._compiler = compiler
        compiled, alphabet = compiler.compiled, spec.alphabet
        self._binning = spec.binning or "lin"
        self._pack_codes = compiled(kernels.pack_codes(alphabet))
        self._unpack_codes = compiled(kernels.unpack_codes(alphabet))
        self._add_ballots = compiled(kernels.add_ballots(alphabet))
        self._block_magnitudes = compiled(kernels.block_magnitudes)
        self._block_level_magnitudes = compiled(kernels.block_level_magnitudes(alphabet))
        self._invalid_words = compiled(kernels.invalid_words(alphabet))
        self._hash_positions = compiled(hash_positions)
        self._encode_kernels: dict[tuple[bool, ...], Callable[..., Tensor]] = {}
        self._count_kernels: dict[tuple[Combine, Alphabet], _CountKernel] = {}

    # A gradient becomes codes, and codes bytes.

    def encode(
        self, codes: Tensor, gradient: Gradient, memory: Memory, bits: BitStream | None
    ) -> None:
        flat = gradient.flat()
        for span in gradient.present_spans():
            its_bits = None if bits is None else bits.at(span.start)
            self._encode(codes[span.slice], flat[span.slice], memory.part(span), its_bits)

    def pack(self, packed: Tensor, codes: Tensor) -> None:
        for blocks in self._compiler.blocks(codes.numel(), self.alphabet):
            place = packed[blocks.bytes.slice]
            out = blocks.byte_rows(place)
            self._pack_codes(out, blocks.rows(_as_lanes(codes[blocks.elements.slice])))
            if blocks.is_tail:
                place.copy_(blocks.flat_bytes(out))
        packed[packed_size(codes.numel(), self.alphabet) :] = 0

    def unpack(self, codes: Tensor, packed: Tensor) -> None:
        for blocks in self._compiler.blocks(codes.numel(), self.alphabet):
            place = codes[blocks.elements.slice]
            out = blocks.rows(place)
            self._unpack_codes(out, blocks.byte_rows(packed[blocks.bytes.slice]))
            if blocks.is_tail:
                place.copy_(blocks.flat(out))

    def check(self, packed: Tensor, numel: int) -> None:
        if bool(packed[:, packed_size(numel, self.alphabet) :].any()):
            raise dirty_padding()
        is_full = group_for(self.alphabet).is_full
        for blocks in self._compiler.blocks(numel, self.alphabet):
            part = packed[:, blocks.bytes.slice]
            if not is_full:
                for some in part.split(BALLOTS_AT_ONCE):
                    self._check_symbols(blocks, some)
            if blocks.is_tail and bool(blocks.padding(part).any()):
                raise dirty_padding()

    # Ballots become results, and results numbers.

    def count(
        self,
        codes: Tensor,
        ballots: Tensor,
        voters: Sequence[Voters],
        combine: Combine,
        bits: BitStream | None,
    ) -> None:
        kernel = self._count_kernel(combine, combine.alphabet(self.alphabet, len(ballots)))
        voter_sets = {
            workers: _voter_set(workers, ballots) for workers in {one.workers for one in voters}
        }
        ties = bits if combine.breaks_ties else None
        for blocks, bit_rows in self._blocks_with_bits(codes.numel(), ties, codes.device):
            packed = [blocks.byte_rows(row[blocks.bytes.slice]) for row in ballots]
            place = codes[blocks.elements.slice]
            out = blocks.rows(place)
            here = voters_within(voters, blocks.elements)
            count_for = functools.partial(self._count_for, kernel, out, packed, bit_rows)
            rows = _by_voters(out, blocks, here, voter_sets, count_for)
            if blocks.is_tail or rows is not out:
                place.copy_(blocks.flat(rows))

    def decode(self, out: Tensor, codes: Tensor, scale: float = 1.0) -> None:
        values = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
        largest = self.alphabet.largest
        values.copy_(codes)
        if not self.alphabet.zeros:
            # The largest level is a power of 2: codes of positive levels have the top bit.
            values += codes >> largest.bit_length() - 1
        values -= largest
        if scale != 1:
            values *= torch.tensor(scale, dtype=torch.float32, device=values.device)
        if values is not out:
            out.copy_(values)

    def magnitudes(self, parts: Sequence[Tensor]) -> list[float]:
        return _totals(parts, self._block_magnitudes, torch.float32)

    def level_magnitudes(self, parts: Sequence[Tensor]) -> list[float]:
        return _totals(parts, self._block_level_magnitudes, torch.int32)

    # Inside.

    def _encode(
        self, codes: Tensor, gradient: Tensor, memory: Memory, bits: BitStream | None
    ) -> None:
        kernel = self._encode_kernel(memory)
        rates = torch.tensor(memory.rates, dtype=torch.float32, device=codes.device)
        for blocks, bit_rows in self._blocks_with_bits(codes.numel(), bits, codes.device):
            flat = memory.part(blocks.elements)
            rows = flat.mapped(blocks.rows)
            place = codes[blocks.elements.slice]
            out = blocks.rows(place)
            values = blocks.rows(gradient[blocks.elements.slice])
            kernel(out, values, rows.bounds, rows.momentum, rows.error, rates, bit_rows)
            if blocks.is_tail:
                place.copy_(blocks.flat(out))
                for kept, its_rows in zip(flat.vectors, rows.vectors, strict=True):
                    kept.copy_(blocks.flat(its_rows))

    def _encode_kernel(self, memory: Memory) -> Callable[..., Tensor]:
        """One for each kind of memory: compiled code knows what it is given."""
        key = tuple(kept is not None for kept in memory[:3])
        if key not in self._encode_kernels:
            kernel = kernels.encode(self.alphabet, self._binning)
            self._encode_kernels[key] = self._compiler.compiled(kernel)
        return self._encode_kernels[key]

    def _blocks_with_bits(
        self, numel: int, bits: BitStream | None, device: torch.device
    ) -> Iterator[tuple[Blocks, Tensor | None]]:
        """A vector in blocks, and of each the random bits: uint8, shape (num_blocks, columns), a
        byte for every column; None where nothing is broken."""
        cut = list(self._compiler.blocks(numel, self.alphabet))
        if bits is None:
            yield from ((blocks, None) for blocks in cut)
            return
        num_blocks = sum(blocks.num_blocks for blocks in cut if not blocks.is_tail)
        found = block_bits(bits.key, bits.start, num_blocks, device, self._hash_positions)
        done = 0
        for blocks in cut:
            if blocks.is_tail:
                start, count = bits.start + blocks.elements.start, blocks.elements.numel
                its_bits = random_bits(bits.key, start, count, device, self._hash_positions)
                yield blocks, gather_bits(blocks.rows(its_bits))
            else:
                yield blocks, found[done : done + blocks.num_blocks]
                done += blocks.num_blocks

    def _count_kernel(self, combine: Combine, results: Alphabet) -> _CountKernel:
        key = combine, results
        if key not in self._count_kernels:
            kernel = kernels.count(self.alphabet, results, combine)
            self._count_kernels[key] = self._compiler.compiled(kernel)
        return self._count_kernels[key]

    def _count_for(
        self,
        kernel: _CountKernel,
        out: Tensor,
        packed: Sequence[Tensor],
        bits: Tensor | None,
        voter_set: _VoterSet,
    ) -> Tensor:
        """Counts blocks as if the same workers voted on all of them."""
        weights, num_voters = voter_set
        raised, rest = self._add_all_but_last(packed, weights)
        return kernel(out, raised, packed[rest:], weights[rest:], num_voters, bits)

    def _add_all_but_last(
        self, ballots: Sequence[Tensor], weights: Tensor
    ) -> tuple[Tensor | None, int]:
        """The sum of all ballots but those that one call takes, and where these begin."""
        raised = None
        last = (len(ballots) - 1) // BALLOTS_AT_ONCE * BALLOTS_AT_ONCE
        for first in range(0, last, BALLOTS_AT_ONCE):
            some = slice(first, first + BALLOTS_AT_ONCE)
            raised = self._add_ballots(raised, ballots[some], weights[some])
        return raised, last

    def _check_symbols(self, blocks: Blocks, packed: Tensor) -> None:
        """Of ballots, shape (ballots, bytes.numel)."""
        ballots = [blocks.byte_rows(row) for row in packed]
        if bool(self._invalid_words(ballots)):
            raise DamagedDataError(
                f"packed levels hold a symbol outside the alphabet of {self.alphabet.symbols}; "
                "the bytes are damaged"
            )


def torch_codec(spec: CodecSpec) -> TorchCodec:
    """The codec of a spec in torch."""
    return TorchCodec(spec, compiler_named(spec.compile, spec.may_fall_back))


def _voter_set(workers: tuple[int, ...], ballots: Tensor) -> _VoterSet:
    mask = [-1 if worker in workers else 0 for worker in range(len(ballots))]
    return _VoterSet(
        torch.tensor(mask, dtype=torch.int32, device=ballots.device),
        torch.tensor(float(len(workers)), dtype=torch.float32, device=ballots.device),
    )


def _by_voters(
    out: Tensor,
    blocks: Blocks,
    voters: Sequence[Voters],
    voter_sets: Mapping[tuple[int, ...], _VoterSet],
    count_for: Callable[[_VoterSet], Tensor],
) -> Tensor:
    """Rows of which each element is counted from the workers who vote on it: all of it for each
    set of voters, since there is seldom more than one."""
    sets = list(dict.fromkeys(workers for _, workers in voters))
    if not sets:
        return out.zero_()
    if len(sets) == 1:
        return count_for(voter_sets[sets[0]])
    counted = {workers: blocks.flat(count_for(voter_sets[workers])).clone() for workers in sets}
    merged = torch.zeros_like(counted[sets[0]])
    for span, workers in voters:
        inside = span.shifted(-blocks.elements.start).slice
        merged[inside] = counted[workers][inside]
    return blocks.rows(merged)


def _totals(
    parts: Sequence[Tensor], kernel: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> list[float]:
    totals = []
    for part in parts:
        total = torch.zeros((), dtype=torch.float64, device=part.device)
        for rows in _in_rows(part):
            sums = torch.empty(rows.shape[0], 1, dtype=dtype, device=part.device)
            kernel(sums, rows)
            total += sums.sum(dtype=torch.float64)
        totals.append(total)
    # One by one, a device would be waited for each time.
    return torch.stack(totals).tolist() if totals else []


def _in_rows(flat: Tensor) -> Iterator[Tensor]:
    """Views as rows: of whole ones, and of the rest."""
    whole = flat.numel() // _ROW * _ROW
    if whole:
        yield flat[:whole].view(-1, _ROW)
    if whole < flat.numel():
        yield flat[whole:].view(1, -1)


def _as_lanes(codes: Tensor) -> Tensor:
    """The same codes where they can be read as int32 lanes; a shard may start anywhere."""
    is_aligned = codes.storage_offset() * codes.element_size() % LANES == 0
    return codes if is_aligned else codes.clone()

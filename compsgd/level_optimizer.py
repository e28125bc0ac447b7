"""A round whose ballots are packed levels (design, sections 2 and 3)."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from compsgd.alphabet import Alphabet, ballot_alphabet, max_level
from compsgd.ballot import BallotHeader
from compsgd.checks import check_choice, check_flag, check_num_bits
from compsgd.compiling import BALLOTS_AT_ONCE, COMPILE_CHOICES, Kernels, pays
from compsgd.exchange import Exchange
from compsgd.flat import Run, shard_numel, shard_run
from compsgd.grouping import LANES
from compsgd.integrity import check_received
from compsgd.kernels import add_ballots, pack_codes, read_tally, tally_codes, tally_update
from compsgd.pieces import Piece, packed_size, shard_size
from compsgd.randomness import (
    BREAK_TIE,
    BREAK_ZERO,
    block_coins,
    derive_key,
    gather_coins,
    hash_positions,
    random_bits,
)
from compsgd.round_optimizer import Electorate, RoundOptimizer
from compsgd.vote import round_away


class LevelOptimizer(RoundOptimizer):
    """Ballots of packed levels. Subclasses say how levels come about, and whether to vote.

    Attributes:
        is_vote: whether the update is the vote on the levels, or their exact mean.
        bin_counts: see `count_usages` of CompressedSGD.
    """

    is_vote: bool
    _rows: Tensor | None = None
    _codes: Tensor | None = None
    _update: Tensor | None = None
    _kept_attributes = (
        *RoundOptimizer._kept_attributes,
        "num_bits",
        "symbol_bits",
        "zeros",
        "rand_zero",
        "count_usages",
        "compile",
        "_kernels",
        "bin_counts",
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        num_bits: int,
        rand_zero: bool,
        count_usages: bool,
        compile: str,
        seed: int,
        num_workers: int,
        exchange: Exchange | None,
        strict: bool,
    ) -> None:
        self.num_bits = self.symbol_bits = check_num_bits(num_bits)
        self.rand_zero = check_flag("rand_zero", rand_zero)
        self.zeros = not self.rand_zero
        self.count_usages = check_flag("count_usages", count_usages)
        self.compile = check_choice("compile", compile, COMPILE_CHOICES)
        self.bin_counts: list[npt.NDArray[np.int64]] = []
        self._kernels: Kernels | None = None
        super().__init__(
            params, lr, seed=seed, num_workers=num_workers, exchange=exchange, strict=strict
        )

    def _make_codes(
        self,
        out: Tensor,
        worker: int,
        gradient: Tensor,
        piece: Piece,
        run: Run,
        absent: Sequence[Run],
        coins: Tensor | None,
    ) -> None:
        """Writes the codes of one piece of a worker's gradient.

        Args:
            out: rows of elements, where to write them.
            worker: whose gradient it is.
            gradient: the whole flat gradient.
            piece: the shape of the elements in question.
            run: their place in the flat vector.
            absent: runs of it that have no gradient, where it is 0.
            coins: for levels 0.
        """
        raise NotImplementedError

    @property
    def kernels(self) -> Kernels:
        """How this optimizer runs its kernels, decided when they are first needed."""
        if self._kernels is None:
            compiled = self.compile == "on" or (
                self.compile == "auto" and pays(self._layout.numel, self.exchange.num_workers)
            )
            self._kernels = Kernels(compiled, may_fall_back=self.compile == "auto")
        return self._kernels

    @property
    def scratch_bytes(self) -> int:
        """Memory kept from round to round beside the ranges and the packed ballots."""
        return sum(kept.nbytes for kept in (self._codes, self._update) if kept is not None)

    @property
    def _alphabet(self) -> Alphabet:
        return ballot_alphabet(self.num_bits, self.zeros)

    @property
    def _tally_alphabet(self) -> Alphabet:
        """The alphabet that a tally lies in: a vote that of the ballots, a sum its own."""
        raise NotImplementedError

    # A gradient becomes a ballot.

    def _make_payload(self, worker: int, gradient: Tensor, present: Sequence[bool]) -> Tensor:
        """1. The codes of the whole vector. 2. Packed, shard by shard."""
        absent = self._layout.absent_runs(present)
        key = derive_key(self.seed, BREAK_ZERO, self.round, worker)
        codes = self._code_buffer()
        for piece, run, coins in self._pieces_with_coins(Run(0, self._layout.numel), key):
            absent_here = [part for a in absent if (part := a.within(run)).numel]
            place = codes[run.slice]
            out = piece.rows(place)
            self._make_codes(out, worker, gradient, piece, run, absent_here, coins)
            if piece.is_tail:
                place.copy_(piece.flat(out))
        payload = self._row(self.exchange.hosted.index(worker))[:, self._header_num_bytes() :]
        for shard, packed in enumerate(payload):
            whole = shard_run(self._layout.numel, self.exchange.num_shards, shard)
            self._pack(packed, codes[whole.slice], self._alphabet)
        return payload

    def _row(self, slot: int) -> Tensor:
        """Where a hosted worker's ballot is written, headers and all, in one buffer for all."""
        hosted, num_shards = self.exchange.hosted, self.exchange.num_shards
        num_bytes = self._header_num_bytes() + self._shard_size(self._alphabet, num_shards)
        shape = (len(hosted), num_shards, num_bytes)
        if self._rows is None or self._rows.shape != shape:
            self._rows = torch.empty(shape, dtype=torch.uint8, device=self._device)
        return self._rows[slot]

    def _pieces_with_coins(
        self, shard: Run, key: int | None
    ) -> Iterator[tuple[Piece, Run, Tensor | None]]:
        """The pieces of a shard's ballot, their place in the flat vector, and their random bits, a
        byte for every column; None instead without a key, or where zeros are kept."""
        pieces = list(self.kernels.pieces(shard.numel, self._alphabet))
        if key is None or not self.rand_zero:
            yield from ((piece, piece.elements.shifted(shard.start), None) for piece in pieces)
            return
        done = 0
        num_blocks = sum(piece.num_blocks for piece in pieces if not piece.is_tail)
        found = block_coins(key, shard.start, num_blocks, self._device, self._hash_positions)
        for piece in pieces:
            run = piece.elements.shifted(shard.start)
            if piece.is_tail:
                bits = random_bits(key, run.start, run.numel, self._device, self._hash_positions)
                yield piece, run, gather_coins(piece.rows(bits))
            else:
                yield piece, run, found[done : done + piece.num_blocks]
                done += piece.num_blocks

    def _hash_positions(self, position: Tensor, key: Tensor) -> Tensor:
        return self.kernels.run(hash_positions, position.shape[0], position, key)

    def _blank_payload(self) -> Tensor:
        """Packed codes by shard, with no bit set; uint8, shape (num_shards, num_bytes)."""
        num_shards = self.exchange.num_shards
        num_bytes = self._shard_size(self._alphabet, num_shards)
        return torch.zeros(num_shards, num_bytes, dtype=torch.uint8, device=self._device)

    def _shard_size(self, alphabet: Alphabet, num_shards: int) -> int:
        return shard_size(shard_numel(self._layout.numel, num_shards), alphabet)

    def _exchange_ballots(self) -> tuple[list[BallotHeader], Tensor]:
        """Every shard travels behind its ballot's header: whoever counts it knows who votes."""
        header_bytes = self._header_num_bytes()
        for slot, worker in enumerate(self.exchange.hosted):
            row, payload = self._row(slot), self._hosted_payload(worker)
            row[:, :header_bytes] = self._hosted_header(worker)
            if payload.data_ptr() != row[:, header_bytes:].data_ptr():
                row[:, header_bytes:] = payload
        assert self._rows is not None
        logical = self._shard_size(self._alphabet, self.exchange.logical_num_shards)
        received = self.exchange.distribute(self._rows, header_bytes + logical)
        return self._read_headers(received), received[:, header_bytes:]

    # Ballots become an update.

    def _combine(
        self, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Iterator[tuple[Run, Tensor]]:
        check_received(payloads, self._own_shard().numel, self._alphabet, self.kernels)
        counts = np.zeros(2 * max_level(self.num_bits) + 1, dtype=np.int64)
        for piece, run, rows in self._updates(electorates, payloads):
            update = piece.flat(rows)
            if self.count_usages:
                for voted, _ in _within(electorates, run):
                    counts += self._count(update[voted.shifted(-run.start).slice])
            yield run, update
        self._note_counts(counts)

    def _own_shard(self) -> Run:
        return shard_run(self._layout.numel, self.exchange.num_shards, self.exchange.shard)

    def _updates(
        self, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Iterator[tuple[Piece, Run, Tensor]]:
        """The update piece by piece, as rows, whether counted here or by others."""
        exchange, alphabet = self.exchange, self._tally_alphabet
        logical = self._shard_size(alphabet, exchange.logical_num_shards)
        if exchange.num_shards == 1:
            exchange.counted_alone(logical)
            yield from self._tallied_here(electorates, payloads)
            return
        packed = self._pack_tally(electorates, payloads)
        received = exchange.collect(packed, logical)
        for shard, part in enumerate(received):
            whole = shard_run(self._layout.numel, exchange.num_shards, shard)
            check_received(part[None], whole.numel, alphabet, self.kernels)
        for shard, part in enumerate(received):
            whole = shard_run(self._layout.numel, exchange.num_shards, shard)
            yield from self._read_tally(electorates, part, whole)

    def _tallied_here(
        self, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Iterator[tuple[Piece, Run, Tensor]]:
        """This process counts everything."""
        whole = Run(0, self._layout.numel)
        for piece, run, coins in self._pieces_with_coins(whole, self._tie_key()):
            out = self._scratch(piece)
            tally = functools.partial(self._tally_piece, tally_update, piece, payloads, coins, out)
            yield piece, run, self._by_electorate(piece, run, electorates, tally)

    def _pack_tally(self, electorates: Sequence[Electorate], payloads: Tensor) -> Tensor:
        """The tally of this process's shard, packed for the others."""
        shard, alphabet = self._own_shard(), self._tally_alphabet
        codes = torch.empty(shard.numel, dtype=alphabet.code_dtype, device=self._device)
        for piece, run, coins in self._pieces_with_coins(shard, self._tie_key()):
            place = codes[piece.elements.slice]
            out = piece.rows(place)
            tally = functools.partial(self._tally_piece, tally_codes, piece, payloads, coins, out)
            rows = self._by_electorate(piece, run, electorates, tally)
            if piece.is_tail or rows is not out:
                place.copy_(piece.flat(rows))
        num_bytes = self._shard_size(alphabet, self.exchange.num_shards)
        packed = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        self._pack(packed, codes, alphabet)
        return packed

    def _pack(self, packed: Tensor, codes: Tensor, alphabet: Alphabet) -> None:
        """Packs the codes of a shard, and clears what its place has beyond."""
        for piece in self.kernels.pieces(codes.numel(), alphabet):
            place = packed[piece.bytes.slice]
            out = piece.byte_rows(place)
            args = out, piece.rows(_as_lanes(codes[piece.elements.slice]))
            self.kernels.run(pack_codes, piece.num_blocks, *args, alphabet=alphabet)
            if piece.is_tail:
                place.copy_(piece.flat_bytes(out))
        packed[packed_size(codes.numel(), alphabet) :] = 0

    def _code_buffer(self) -> Tensor:
        """A code for every element, in the same memory again and again: new memory is slow."""
        numel, dtype = self._layout.numel, self._alphabet.code_dtype
        if self._codes is None or self._codes.numel() != numel:
            self._codes = torch.empty(numel, dtype=dtype, device=self._device)
        return self._codes

    def _read_tally(
        self, electorates: Sequence[Electorate], packed: Tensor, shard: Run
    ) -> Iterator[tuple[Piece, Run, Tensor]]:
        """The update of a shard from what its counter has sent."""
        for piece in self.kernels.pieces(shard.numel, self._tally_alphabet):
            run = piece.elements.shifted(shard.start)
            byte_rows = piece.byte_rows(packed[piece.bytes.slice])
            out = self._scratch(piece)
            read = functools.partial(self._read_piece, piece, byte_rows, out)
            yield piece, run, self._by_electorate(piece, run, electorates, read)

    def _tally_piece(
        self,
        function: Callable[..., Tensor],
        piece: Piece,
        payloads: Tensor,
        coins: Tensor | None,
        out: Tensor,
        workers: tuple[int, ...],
    ) -> Tensor:
        """`tally_update` or `tally_codes` of some workers' ballots, written into `out`."""
        weights, num_voters = self._weights(workers)
        alphabet, run_kernel = self._alphabet, self.kernels.run
        ballots = [piece.byte_rows(row[piece.bytes.slice]) for row in payloads]
        raised = None
        batches = range(0, len(ballots), BALLOTS_AT_ONCE)
        for first in batches:
            some = slice(first, first + BALLOTS_AT_ONCE)
            args: Any = (raised, ballots[some], weights[some])
            if first < batches[-1]:
                raised = run_kernel(add_ballots, piece.num_blocks, *args, alphabet=alphabet)
        settings: dict[str, Any] = {"alphabet": alphabet, "is_vote": self.is_vote}
        if function is tally_codes:
            settings["tally_alphabet"] = self._tally_alphabet
        args = (out, *args, num_voters, coins)
        return run_kernel(function, piece.num_blocks, *args, **settings)

    def _read_piece(
        self, piece: Piece, byte_rows: Tensor, out: Tensor, workers: tuple[int, ...]
    ) -> Tensor:
        _, num_voters = self._weights(workers)
        settings = {"alphabet": self._tally_alphabet, "is_vote": self.is_vote}
        args = out, byte_rows, num_voters
        return self.kernels.run(read_tally, piece.num_blocks, *args, **settings)

    def _scratch(self, piece: Piece) -> Tensor:
        """Rows to write the update of a piece into, in the same memory again and again."""
        if piece.is_tail:
            return piece.rows(torch.zeros(piece.elements.numel, device=self._device))
        numel = piece.elements.numel
        if self._update is None or self._update.numel() < numel:
            self._update = torch.empty(numel, device=self._device)
        return piece.rows(self._update[:numel])

    def _tie_key(self) -> int | None:
        """For breaking ties; None where there is no vote."""
        return derive_key(self.seed, BREAK_TIE, self.round) if self.is_vote else None

    def _by_electorate(
        self,
        piece: Piece,
        run: Run,
        electorates: Sequence[Electorate],
        compute: Callable[[tuple[int, ...]], Tensor],
    ) -> Tensor:
        """Rows of a piece of which each element is computed from the workers who vote on it: all
        of it for each set of voters, since there is seldom more than one."""
        here = _within(electorates, run)
        if not here:
            return piece.rows(torch.zeros(run.numel, dtype=torch.uint8, device=self._device))
        sets = list(dict.fromkeys(workers for _, workers in here))
        if len(sets) == 1:
            return compute(sets[0])
        computed = {workers: piece.flat(compute(workers)).clone() for workers in sets}
        merged = torch.zeros_like(computed[sets[0]])
        for part, workers in here:
            inside = part.shifted(-run.start).slice
            merged[inside] = computed[workers][inside]
        return piece.rows(merged)

    def _weights(self, workers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """What kernels want to know of the voters: int32 masks of all N workers, and how many."""
        mask = [-1 if worker in workers else 0 for worker in range(self.exchange.num_workers)]
        return (
            torch.tensor(mask, dtype=torch.int32, device=self._device),
            torch.tensor(float(len(workers)), device=self._device),
        )

    # Bin usage.

    def _count(self, update: Tensor) -> npt.NDArray[np.int64]:
        largest = max_level(self.num_bits)
        bins = round_away(update).to(torch.int64) + largest
        return torch.bincount(bins, minlength=2 * largest + 1).cpu().numpy()

    def _note_counts(self, counts: npt.NDArray[np.int64]) -> None:
        if self.count_usages:
            # What nobody votes on stays where it is.
            counts[max_level(self.num_bits)] += self._layout.numel - counts.sum()
            self.bin_counts.append(counts)

    def _combine_nothing(self) -> None:
        self._note_counts(np.zeros(2 * max_level(self.num_bits) + 1, dtype=np.int64))

    # State.

    def state_dict(self) -> dict[str, Any]:
        """With the bin counts as one tensor, shape (steps, 2^num_bits + 1)."""
        state_dict = super().state_dict()
        num_levels = 2 * max_level(self.num_bits) + 1
        counts = np.array(self.bin_counts, dtype=np.int64).reshape(-1, num_levels)
        state_dict["state"]["bin_counts"] = torch.from_numpy(counts)
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.bin_counts = list(state_dict["state"]["bin_counts"].cpu().numpy().copy())


class VotingOptimizer(LevelOptimizer):
    """The tally is the majority, one level of the ballots' alphabet."""

    is_vote = True

    @property
    def _tally_alphabet(self) -> Alphabet:
        return self._alphabet


def _as_lanes(codes: Tensor) -> Tensor:
    """The same codes where they can be read as int32 lanes; a shard may start anywhere."""
    is_aligned = codes.storage_offset() * codes.element_size() % LANES == 0
    return codes if is_aligned else codes.clone()


def _within(electorates: Sequence[Electorate], piece: Run) -> list[Electorate]:
    """The parts of electorates that lie in a piece."""
    parts = [Electorate(run.within(piece), workers) for run, workers in electorates]
    return [part for part in parts if part.run.numel]

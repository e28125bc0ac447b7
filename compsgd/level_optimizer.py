"""A round whose ballots are packed levels (design, sections 2 and 3)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from compsgd.alphabet import Alphabet, ballot_alphabet, max_level
from compsgd.ballot import BallotHeader
from compsgd.checks import check_flag, check_num_bits
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange
from compsgd.flat import Run, shard_numel, shard_run
from compsgd.packing import chunks, levels_num_bytes, pack_levels, unpack_levels
from compsgd.randomness import BREAK_TIE, BREAK_ZERO, break_zeros, derive_key
from compsgd.round_optimizer import Electorate, RoundOptimizer
from compsgd.vote import sum_dtype, vote


class LevelOptimizer(RoundOptimizer):
    """Ballots of packed levels. Subclasses say how levels come about and how sums combine."""

    _kept_attributes = (
        *RoundOptimizer._kept_attributes,
        "num_bits",
        "symbol_bits",
        "zeros",
        "rand_zero",
        "count_usages",
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
        seed: int,
        num_workers: int,
        exchange: Exchange | None,
        strict: bool,
    ) -> None:
        self.num_bits = self.symbol_bits = check_num_bits(num_bits)
        self.rand_zero = check_flag("rand_zero", rand_zero)
        self.zeros = not self.rand_zero
        self.count_usages = check_flag("count_usages", count_usages)
        self.bin_counts: list[npt.NDArray[np.int64]] = []
        super().__init__(
            params, lr, seed=seed, num_workers=num_workers, exchange=exchange, strict=strict
        )

    def _make_levels(
        self, worker: int, gradient: Tensor, piece: Run, present: Sequence[Run]
    ) -> Tensor:
        """The levels of a piece of a worker's gradient, zeros not yet broken.

        Args:
            worker: whose gradient it is.
            gradient: the whole flat gradient.
            piece: the elements in question.
            present: the parts of the piece that have a gradient.

        Returns:
            int16, shape (piece.numel,).
        """
        raise NotImplementedError

    def _tally(self, level_sum: Tensor, num_voters: int, start: int) -> Tensor:
        """What the counters of a shard send back for a run of elements from `start` on."""
        raise NotImplementedError

    @property
    def _tally_alphabet(self) -> Alphabet:
        """The alphabet that every tally lies in."""
        raise NotImplementedError

    def _decide(self, tally: Tensor, num_voters: int) -> Tensor:
        """The update of a run of elements, before lr."""
        raise NotImplementedError

    def _rounded(self, tally: Tensor, num_voters: int) -> Tensor:
        """The levels that an update counts as."""
        raise NotImplementedError

    @property
    def _alphabet(self) -> Alphabet:
        return ballot_alphabet(self.num_bits, self.zeros)

    def _make_payload(self, worker: int, gradient: Tensor, present: Sequence[bool]) -> Tensor:
        runs = self._layout.present_runs(present)
        key = derive_key(self.seed, BREAK_ZERO, self.round, worker)
        payload = self._blank_payload()
        for shard, packed in enumerate(payload):
            whole = shard_run(self._layout.numel, self.exchange.num_shards, shard)
            for elements, its_bytes in chunks(whole.numel, self._alphabet):
                piece = elements.shifted(whole.start)
                parts = [run.within(piece) for run in runs]
                levels = self._make_levels(worker, gradient, piece, [p for p in parts if p.numel])
                if self.rand_zero:
                    break_zeros(levels, key, piece.start)
                packed[its_bytes.slice] = pack_levels(levels, self._alphabet)
        return payload

    def _blank_payload(self) -> Tensor:
        """Packed codes by shard, with no bit set; uint8, shape (num_shards, num_bytes)."""
        num_shards = self.exchange.num_shards
        num_bytes = self._shard_num_bytes(self._alphabet, num_shards)
        return torch.zeros(num_shards, num_bytes, dtype=torch.uint8, device=self._device)

    def _shard_num_bytes(self, alphabet: Alphabet, num_shards: int) -> int:
        return levels_num_bytes(shard_numel(self._layout.numel, num_shards), alphabet)

    def _exchange_ballots(self) -> tuple[list[BallotHeader], Tensor]:
        """Every shard travels behind its ballot's header: whoever counts it knows who votes."""
        hosted, num_shards = self.exchange.hosted, self.exchange.num_shards
        header_bytes = self._header_num_bytes()
        num_bytes = header_bytes + self._shard_num_bytes(self._alphabet, num_shards)
        ballots = torch.empty(
            len(hosted), num_shards, num_bytes, dtype=torch.uint8, device=self._device
        )
        for ballot, worker in zip(ballots, hosted, strict=True):
            ballot[:, :header_bytes] = self._hosted_header(worker)
            ballot[:, header_bytes:] = self._hosted_payload(worker)
        # The packed ballots stand in `ballots` now, and need not be there twice.
        self._global["ballots"] = {}
        logical = self._shard_num_bytes(self._alphabet, self.exchange.logical_num_shards)
        received = self.exchange.distribute(ballots, header_bytes + logical)
        return self._read_headers(received), received[:, header_bytes:]

    def _combine(self, electorates: Sequence[Electorate], payloads: Tensor) -> Tensor:
        tally = self._tally_together(electorates, payloads)
        if self.count_usages:
            counted = torch.zeros_like(tally)
            for run, workers in electorates:
                counted[run.slice] = self._rounded(tally[run.slice], len(workers))
            self._count(counted)
        update = torch.empty(self._layout.numel, device=self._device)
        for run, workers in electorates:
            update[run.slice] = self._decide(tally[run.slice], len(workers))
        return update

    def _tally_together(self, electorates: Sequence[Electorate], payloads: Tensor) -> Tensor:
        """Tallies this process's shard, and receives the others' tallies of theirs."""
        numel, exchange = self._layout.numel, self.exchange
        mine = shard_run(numel, exchange.num_shards, exchange.shard)
        tally = self._tally_shard(mine, electorates, payloads)
        alphabet = self._tally_alphabet
        logical = self._shard_num_bytes(alphabet, exchange.logical_num_shards)
        if exchange.num_shards == 1:
            exchange.counted_alone(logical)
            return tally
        num_bytes = self._shard_num_bytes(alphabet, exchange.num_shards)
        packed = torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)
        for elements, its_bytes in chunks(mine.numel, alphabet):
            packed[its_bytes.slice] = pack_levels(tally[elements.slice], alphabet)
        together = tally.new_empty(numel)
        for shard, part in enumerate(exchange.collect(packed, logical)):
            run = shard_run(numel, exchange.num_shards, shard)
            for elements, codes in _received_chunks(part, run.numel, alphabet):
                piece = elements.shifted(run.start)
                together[piece.slice] = unpack_levels(codes, piece.numel, alphabet)
        return together

    def _tally_shard(
        self, shard: Run, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Tensor:
        """The tally of the elements of a shard; 1 where nobody votes, a level of any alphabet."""
        dtype = sum_dtype(self.num_bits, self.exchange.num_workers)
        tally = torch.ones(shard.numel, dtype=dtype, device=self._device)
        ballots = [
            _received_chunks(payloads[worker], shard.numel, self._alphabet)
            for worker in self.participants
        ]
        for chunk in zip(*ballots, strict=True):
            elements, _ = chunk[0]
            piece = elements.shifted(shard.start)
            here = _within(electorates, piece)
            codes = dict(zip(self.participants, (codes for _, codes in chunk), strict=True))
            level_sum = self._add_up(codes, piece.numel, here)
            for run, workers in here:
                tally[run.shifted(elements.start).slice] = self._tally(
                    level_sum[run.slice], len(workers), piece.start + run.start
                )
        return tally

    def _add_up(
        self, codes: Mapping[int, Tensor], numel: int, electorates: Sequence[Electorate]
    ) -> Tensor:
        """S, the sum of the levels of those who vote on each element of a piece; integers."""
        dtype = sum_dtype(self.num_bits, self.exchange.num_workers)
        level_sum = torch.zeros(numel, dtype=dtype, device=self._device)
        for worker, its_codes in codes.items():
            levels = unpack_levels(its_codes, numel, self._alphabet)
            for run, workers in electorates:
                if worker in workers:
                    level_sum[run.slice] += levels[run.slice]
        return level_sum

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

    def _count(self, levels: Tensor) -> None:
        largest = max_level(self.num_bits)
        counts = torch.bincount(levels.to(torch.int64) + largest, minlength=2 * largest + 1)
        self.bin_counts.append(counts.cpu().numpy())

    def _combine_nothing(self) -> None:
        if self.count_usages:
            self._count(torch.zeros(self._layout.numel, dtype=torch.int16, device=self._device))


class VotingOptimizer(LevelOptimizer):
    """The tally is the majority, one level of the ballots' alphabet."""

    def _tally(self, level_sum: Tensor, num_voters: int, start: int) -> Tensor:
        voted = vote(level_sum, num_voters)
        if self.rand_zero:
            break_zeros(voted, derive_key(self.seed, BREAK_TIE, self.round), start)
        return voted

    @property
    def _tally_alphabet(self) -> Alphabet:
        return self._alphabet

    def _decide(self, tally: Tensor, num_voters: int) -> Tensor:
        return tally

    def _rounded(self, tally: Tensor, num_voters: int) -> Tensor:
        return tally


def _within(electorates: Sequence[Electorate], piece: Run) -> list[Electorate]:
    """The parts of electorates that lie in a piece, counted from its start."""
    parts = [(run.within(piece).shifted(-piece.start), workers) for run, workers in electorates]
    return [Electorate(run, workers) for run, workers in parts if run.numel]


def _received_chunks(
    packed: Tensor, numel: int, alphabet: Alphabet
) -> Iterator[tuple[Run, Tensor]]:
    """The chunks of a shard that came from a peer: elements and their codes. A shard that is
    shorter than the others must end in bytes of zero."""
    if bool(packed[levels_num_bytes(numel, alphabet) :].any()):
        raise CompsgdError("a shard ends in padding that is not zero; the bytes are damaged")
    for elements, its_bytes in chunks(numel, alphabet):
        yield elements, packed[its_bytes.slice]

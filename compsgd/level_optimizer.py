"""A round whose ballots are packed levels (design, sections 2 and 3)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from compsgd.alphabet import Alphabet, ballot_alphabet, max_level
from compsgd.ballot import BallotHeader
from compsgd.checks import check_num_bits
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange
from compsgd.flat import Run, shard_numel, shard_run
from compsgd.packing import levels_num_bytes, pack_levels, unpack_levels
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
        self.rand_zero = bool(rand_zero)
        self.zeros = not self.rand_zero
        self.count_usages = bool(count_usages)
        self.bin_counts: list[npt.NDArray[np.int64]] = []
        super().__init__(
            params, lr, seed=seed, num_workers=num_workers, exchange=exchange, strict=strict
        )

    def _make_levels(self, worker: int, gradient: Tensor, present: Sequence[bool]) -> Tensor:
        """The levels of a worker's gradient, zeros not yet broken; int16."""
        raise NotImplementedError

    def _tally(self, level_sum: Tensor, num_voters: int, start: int) -> Tensor:
        """What the counters of a shard send back for a run of elements from `start` on."""
        raise NotImplementedError

    @property
    def _tally_alphabet(self) -> Alphabet:
        """The alphabet that every tally lies in."""
        raise NotImplementedError

    def _decide(self, tally: Tensor, num_voters: int) -> tuple[Tensor, Tensor]:
        """The update of a run of elements, and the levels that it counts as."""
        raise NotImplementedError

    @property
    def _alphabet(self) -> Alphabet:
        return ballot_alphabet(self.num_bits, self.zeros)

    def _make_payload(self, worker: int, gradient: Tensor, present: Sequence[bool]) -> Tensor:
        levels = self._make_levels(worker, gradient, present)
        if self.rand_zero:
            break_zeros(levels, derive_key(self.seed, BREAK_ZERO, self.round, worker))
        payload = self._blank_payload()
        for shard, packed in enumerate(payload):
            run = shard_run(self._layout.numel, self.exchange.num_shards, shard)
            self._pack_into(packed, levels[run.slice], self._alphabet)
        return payload

    def _blank_payload(self) -> Tensor:
        """Packed codes by shard, with no bit set; uint8, shape (num_shards, num_bytes)."""
        num_shards = self.exchange.num_shards
        num_bytes = self._shard_num_bytes(self._alphabet, num_shards)
        return torch.zeros(num_shards, num_bytes, dtype=torch.uint8, device=self._device)

    def _shard_num_bytes(self, alphabet: Alphabet, num_shards: int) -> int:
        return levels_num_bytes(shard_numel(self._layout.numel, num_shards), alphabet)

    @staticmethod
    def _pack_into(packed: Tensor, levels: Tensor, alphabet: Alphabet) -> None:
        """Packs a shard; a last one that is shorter than the others leaves bytes of zero."""
        content = pack_levels(levels, alphabet)
        packed[: content.numel()] = content

    @staticmethod
    def _unpack_from(packed: Tensor, numel: int, alphabet: Alphabet) -> Tensor:
        num_bytes = levels_num_bytes(numel, alphabet)
        if bool(packed[num_bytes:].any()):
            raise CompsgdError("a shard ends in padding that is not zero; the bytes are damaged")
        return unpack_levels(packed[:num_bytes], numel, alphabet)

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
        logical = self._shard_num_bytes(self._alphabet, self.exchange.logical_num_shards)
        received = self.exchange.distribute(ballots, header_bytes + logical)
        return self._read_headers(received), received[:, header_bytes:]

    def _combine(self, electorates: Sequence[Electorate], payloads: Tensor) -> Tensor:
        tally = self._tally_together(electorates, payloads)
        update = torch.zeros(self._layout.numel, device=self._device)
        counted = torch.zeros_like(tally)
        for run, workers in electorates:
            update[run.slice], counted[run.slice] = self._decide(tally[run.slice], len(workers))
        self._count(counted)
        return update

    def _tally_together(self, electorates: Sequence[Electorate], payloads: Tensor) -> Tensor:
        """Tallies this process's shard, and receives the others' tallies of theirs."""
        numel, exchange = self._layout.numel, self.exchange
        mine = shard_run(numel, exchange.num_shards, exchange.shard)
        tally = self._tally_shard(mine, _within(electorates, mine), payloads)
        alphabet = self._tally_alphabet
        logical = self._shard_num_bytes(alphabet, exchange.logical_num_shards)
        if exchange.num_shards == 1:
            exchange.counted_alone(logical)
            return tally
        num_bytes = self._shard_num_bytes(alphabet, exchange.num_shards)
        packed = torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)
        self._pack_into(packed, tally, alphabet)
        everyones = exchange.collect(packed, logical)
        runs = [shard_run(numel, exchange.num_shards, i) for i in range(exchange.num_shards)]
        return torch.cat(
            [
                self._unpack_from(part, run.end - run.start, alphabet)
                for part, run in zip(everyones, runs, strict=True)
            ]
        )

    def _tally_shard(
        self, shard: Run, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Tensor:
        """The tally of the elements of a shard; 1 where nobody votes, a level of any alphabet."""
        numel = shard.end - shard.start
        dtype = sum_dtype(self.num_bits, self.exchange.num_workers)
        level_sum = torch.zeros(numel, dtype=dtype, device=self._device)
        for worker in self.participants:
            levels = self._unpack_from(payloads[worker], numel, self._alphabet)
            for run, workers in electorates:
                if worker in workers:
                    level_sum[run.slice] += levels[run.slice]
        tally = torch.ones_like(level_sum)
        for run, workers in electorates:
            tally[run.slice] = self._tally(
                level_sum[run.slice], len(workers), shard.start + run.start
            )
        return tally

    def _count(self, levels: Tensor) -> None:
        if not self.count_usages:
            return
        largest = max_level(self.num_bits)
        counts = torch.bincount(levels.to(torch.int64) + largest, minlength=2 * largest + 1)
        self.bin_counts.append(counts.cpu().numpy())

    def _combine_nothing(self) -> None:
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

    def _decide(self, tally: Tensor, num_voters: int) -> tuple[Tensor, Tensor]:
        return tally.to(torch.float32), tally


def _within(electorates: Sequence[Electorate], shard: Run) -> list[Electorate]:
    """The parts of electorates that lie in a shard, counted from its start."""
    parts = [
        Electorate(
            Run(max(run.start, shard.start) - shard.start, min(run.end, shard.end) - shard.start),
            workers,
        )
        for run, workers in electorates
    ]
    return [part for part in parts if part.run.start < part.run.end]

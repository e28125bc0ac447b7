"""Packed ballots become an update (design, sections 2 and 3).

Either this process counts everything, or every process counts one shard of all ballots and sends
the result to all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compsgd.alphabet import Alphabet
from compsgd.coins import CoinedPiece, coined_pieces
from compsgd.compiling import BALLOTS_AT_ONCE, Kernels
from compsgd.electorate import Electorate, parts_within
from compsgd.exchange import Exchange
from compsgd.flat import Run, shard_numel, shard_run
from compsgd.integrity import check_received
from compsgd.kernels import add_ballots, read_tally, tally
from compsgd.packing import pack_shard, unpack_shard
from compsgd.pieces import Piece, shard_size
from compsgd.scratch import Scratch

if TYPE_CHECKING:
    from compsgd.native import NativeCodec

# Few enough for the cache.
_LEVELS_AT_ONCE = 1 << 16

# Rows of elements into which something is written, and for which voters.
_Compute = Callable[[Tensor, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Tally:
    """One round's counting.

    Attributes:
        numel: of the flat vector.
        first: where it stands in that of the whole model, for random bits.
        alphabet: of the ballots.
        out_alphabet: of what is counted: a vote has that of the ballots, a sum its own.
        is_vote: whether the update is the vote on the levels, or their exact mean.
        tie_key: from derive_key, for ties; None where they are not broken.
        codes: memory for codes of out_alphabet.
        update: memory for a piece of the update.
    """

    numel: int
    first: int
    alphabet: Alphabet
    out_alphabet: Alphabet
    is_vote: bool
    tie_key: int | None
    exchange: Exchange
    kernels: Kernels
    codes: Scratch
    update: Scratch

    def updates(
        self, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Iterator[tuple[Run, Tensor]]:
        """The update run by run, float32 of shape (run.numel,), as `RoundOptimizer._combine`.

        Args:
            electorates: who votes where.
            payloads: uint8, shape (num_workers, num_bytes): this process's shard of each ballot.

        Raises:
            CompsgdError: damaged bytes, of a ballot or of another process's count.
        """
        codec = self._codec(payloads.device)
        if codec is not None:
            yield from self._levels_of(self.vote_codes(electorates, payloads), codec)
            return
        self._check_ballots(payloads)
        if self.exchange.num_shards == 1:
            self._note_counted_alone()
            yield from self._count_all(electorates, payloads)
            return
        received = self._collect(electorates, payloads)
        for shard, packed in zip(self._shards(), received, strict=True):
            yield from self._read_shard(electorates, shard, packed)

    def vote_codes(self, electorates: Sequence[Electorate], payloads: Tensor) -> Tensor:
        """The same vote as codes, which take a byte where levels take four: all at once,
        out_alphabet.code_dtype of shape (numel,), until the next round."""
        self._check_ballots(payloads)
        if self.exchange.num_shards == 1:
            self._note_counted_alone()
            return self._shard_codes(electorates, payloads)
        received = self._collect(electorates, payloads)
        codes = self.codes.flat(self.numel, payloads.device)
        for shard, packed in zip(self._shards(), received, strict=True):
            unpack_shard(codes[shard.slice], packed, self.out_alphabet, self.kernels)
        return codes

    def _codec(self, device: torch.device) -> NativeCodec | None:
        """The loops that can do this counting, if there are any."""
        if not self.is_vote or self.tie_key is None:
            return None
        codec = self.kernels.codec(self.alphabet, device)
        return codec if codec and codec.may_count(self.exchange.num_workers) else None

    def _check_ballots(self, payloads: Tensor) -> None:
        shard = self._shard(self.exchange.shard)
        check_received(payloads, shard.numel, self.alphabet, self.kernels)

    def _note_counted_alone(self) -> None:
        self.exchange.counted_alone(self._shard_size(self.exchange.logical_num_shards))

    def _shards(self) -> list[Run]:
        return [self._shard(i) for i in range(self.exchange.num_shards)]

    def _shard(self, i: int) -> Run:
        return shard_run(self.numel, self.exchange.num_shards, i)

    def _shard_size(self, num_shards: int) -> int:
        return shard_size(shard_numel(self.numel, num_shards), self.out_alphabet)

    def _count_all(
        self, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Iterator[tuple[Run, Tensor]]:
        for part in self._coined_pieces(Run(0, self.numel), payloads.device):
            out = self.update.rows(part.piece, payloads.device)
            rows = self._by_electorate(electorates, part, out, self._counting(payloads, part, None))
            yield part.run, part.piece.flat(rows)

    def _levels_of(self, codes: Tensor, codec: NativeCodec) -> Iterator[tuple[Run, Tensor]]:
        for start in range(0, self.numel, _LEVELS_AT_ONCE):
            run = Run(start, min(start + _LEVELS_AT_ONCE, self.numel))
            update = self.update.flat(run.numel, codes.device)
            codec.write_levels(update, codes[run.slice])
            yield run, update

    def _collect(self, electorates: Sequence[Electorate], payloads: Tensor) -> Tensor:
        """Every process's count of its shard, packed: uint8, shape (num_shards, num_bytes)."""
        codes = self._shard_codes(electorates, payloads)
        num_bytes = self._shard_size(self.exchange.num_shards)
        packed = torch.empty(num_bytes, dtype=torch.uint8, device=payloads.device)
        pack_shard(packed, codes, self.out_alphabet, self.kernels)
        logical_bytes = self._shard_size(self.exchange.logical_num_shards)
        received = self.exchange.collect(packed, logical_bytes)
        for shard, row in zip(self._shards(), received, strict=True):
            check_received(row[None], shard.numel, self.out_alphabet, self.kernels)
        return received

    def _shard_codes(self, electorates: Sequence[Electorate], payloads: Tensor) -> Tensor:
        """The count of this process's shard, as codes."""
        shard, device = self._shard(self.exchange.shard), payloads.device
        codes = self.codes.flat(shard.numel, device)
        codec = self._codec(device)
        if codec is not None:
            self._vote_natively(codes, electorates, payloads, shard, codec)
            return codes
        for part in self._coined_pieces(shard, device):
            piece = part.piece
            place = codes[piece.elements.slice]
            out = piece.rows(place)
            counting = self._counting(payloads, part, self.out_alphabet)
            rows = self._by_electorate(electorates, part, out, counting)
            if piece.is_tail or rows is not out:
                place.copy_(piece.flat(rows))
        return codes

    def _vote_natively(
        self,
        codes: Tensor,
        electorates: Sequence[Electorate],
        payloads: Tensor,
        shard: Run,
        codec: NativeCodec,
    ) -> None:
        assert self.tie_key is not None
        coins = codec.coins(self.tie_key, self.first + shard.start, shard.numel)
        here = parts_within(electorates, shard)
        if sum(run.numel for run, _ in here) < shard.numel:
            # Any code will do where nobody votes, but it must be one.
            codes.zero_()
        for run, workers in here:
            codec.vote(codes, payloads, workers, coins, run.shifted(-shard.start))

    def _read_shard(
        self, electorates: Sequence[Electorate], shard: Run, packed: Tensor
    ) -> Iterator[tuple[Run, Tensor]]:
        """The update of a shard from what its counter has sent."""
        for piece in self.kernels.pieces(shard.numel, self.out_alphabet):
            part = CoinedPiece(piece, piece.elements.shifted(shard.start), None)
            byte_rows = piece.byte_rows(packed[piece.bytes.slice])
            out = self.update.rows(piece, packed.device)
            rows = self._by_electorate(electorates, part, out, self._reading(byte_rows, piece))
            yield part.run, piece.flat(rows)

    def _coined_pieces(self, shard: Run, device: torch.device) -> Iterator[CoinedPiece]:
        return coined_pieces(shard, self.first, self.alphabet, self.tie_key, self.kernels, device)

    def _counting(
        self, payloads: Tensor, part: CoinedPiece, out_alphabet: Alphabet | None
    ) -> _Compute:
        """The kernel `tally` on some workers' ballots, of which only so many are added at once."""
        piece = part.piece
        ballots = [piece.byte_rows(row[piece.bytes.slice]) for row in payloads]
        last = (len(ballots) - 1) // BALLOTS_AT_ONCE * BALLOTS_AT_ONCE
        settings: dict[str, Any] = {"alphabet": self.alphabet}

        def count(out: Tensor, workers: tuple[int, ...]) -> Tensor:
            weights, num_voters = self._weights(workers, payloads.device)
            raised = None
            for first in range(0, last, BALLOTS_AT_ONCE):
                some = slice(first, first + BALLOTS_AT_ONCE)
                args = raised, ballots[some], weights[some]
                raised = self.kernels.run(add_ballots, piece.num_blocks, *args, **settings)
            return self.kernels.run(
                tally,
                piece.num_blocks,
                out,
                raised,
                ballots[last:],
                weights[last:],
                num_voters,
                part.coins,
                **settings,
                is_vote=self.is_vote,
                out_alphabet=out_alphabet,
            )

        return count

    def _reading(self, byte_rows: Tensor, piece: Piece) -> _Compute:
        def read(out: Tensor, workers: tuple[int, ...]) -> Tensor:
            _, num_voters = self._weights(workers, byte_rows.device)
            settings = {"alphabet": self.out_alphabet, "is_vote": self.is_vote}
            args = out, byte_rows, num_voters
            return self.kernels.run(read_tally, piece.num_blocks, *args, **settings)

        return read

    def _by_electorate(
        self, electorates: Sequence[Electorate], part: CoinedPiece, out: Tensor, compute: _Compute
    ) -> Tensor:
        """Rows of a piece of which each element is computed from the workers who vote on it: all
        of it for each set of voters, since there is seldom more than one."""
        here = parts_within(electorates, part.run)
        sets = list(dict.fromkeys(workers for _, workers in here))
        if not sets:
            return out.zero_()
        if len(sets) == 1:
            return compute(out, sets[0])
        computed = {workers: part.piece.flat(compute(out, workers)).clone() for workers in sets}
        merged = torch.zeros_like(computed[sets[0]])
        for run, workers in here:
            inside = run.shifted(-part.run.start).slice
            merged[inside] = computed[workers][inside]
        return part.piece.rows(merged)

    def _weights(self, workers: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """What kernels want to know of the voters: int32 masks of all N workers, and how many."""
        mask = [-1 if worker in workers else 0 for worker in range(self.exchange.num_workers)]
        return (
            torch.tensor(mask, dtype=torch.int32, device=device),
            torch.tensor(float(len(workers)), dtype=torch.float32, device=device),
        )

"""One round of N workers: gradients become ballots, and ballots one update.

gradient -> encoder -> codes -> codec -> packed ballot -> exchange -> codec and combine -> codes of
the result -> update. Every client comes in here: the optimizers, the hook, a user's own loop.
"""

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from compsgd.codec.base import CodecSpec
from compsgd.codec.compiling import Work, choose
from compsgd.codec.registry import codec_for
from compsgd.codec.wire import RoundFormat, WireFormat
from compsgd.errors import DamagedDataError, PeerError, SettingError
from compsgd.gradient import Gradient
from compsgd.kinds import Kind
from compsgd.layout import FlatLayout, Span, Voters, Workspace, shard_span, voters_within
from compsgd.rng import BREAK_TIE, BREAK_ZERO, BitStream, derive_key
from compsgd.settings import VoteSettings
from compsgd.voting.ballot import BallotBox, BallotHeader, header_num_bytes, naming, voters_of
from compsgd.voting.encoder import Encoder
from compsgd.voting.exchange import Exchange

_FLOAT_BYTES = 4
_DRAW_BYTES = 8
_NUM_DRAWS = 1 << 8 * _DRAW_BYTES


@dataclass(frozen=True)
class Outcome:
    """What a round came to; its tensors are valid until the next one.

    Attributes:
        headers: what every worker said of its ballot.
        voters: who votes where; nothing where nobody does.
        received: uint8, shape (num_workers, num_bytes): this process's shard of every ballot,
            behind headers.
        result: of the whole vector, for `Aggregator.updates`; of levels None if nobody votes.
    """

    headers: Sequence[BallotHeader]
    voters: Sequence[Voters]
    received: Tensor
    result: Tensor | None

    @property
    def participants(self) -> tuple[int, ...]:
        """The workers that took part."""
        return tuple(header.worker for header in self.headers if header.takes_part)


class Aggregator(Protocol):
    """One round after another: `compress` for every hosted worker, then `aggregate`.

    Attributes:
        layout: of the flat vector.
    """

    @property
    def layout(self) -> FlatLayout: ...

    def compress(self, slot: int, gradient: Gradient, round_: int) -> None:
        """Takes a gradient as a worker's ballot; a later one of the same round replaces it.

        Args:
            slot: whose, by place among the hosted workers.
            gradient: of the layout's elements. If it is not finite the worker sits out.
            round_: counts from 0.
        """

    @property
    def cast(self) -> Collection[int]:
        """Who has compressed since the last `aggregate`, by place among the hosted workers."""

    def aggregate(self, round_: int) -> Outcome:
        """Exchanges the ballots and combines them; all processes call it together."""

    def updates(self, outcome: Outcome) -> Iterator[tuple[Span, Tensor]]:
        """What the round moves parameters by before lr: float32, shape (span.numel,), span by
        span where somebody votes. The next one may overwrite it."""

    def pending(self) -> dict[str, Tensor]:
        """What was compressed since the last `aggregate`, for a state_dict."""

    def pending_kinds(self) -> dict[str, Kind]:
        """What `pending` may hold, by name."""

    def restore(self, pending: Mapping[str, Tensor], round_: int) -> None:
        """Takes over what `pending` returned."""


class LevelAggregator:
    """An `Aggregator` of packed levels.

    Attributes:
        alphabet: of the ballots.
        box: the ballots of the round under way.
        codec: does the work on ballots.
    """

    def __init__(
        self,
        layout: FlatLayout,
        encoders: Sequence[Encoder],
        work: Work,
        exchange: Exchange,
        settings: VoteSettings,
        device: torch.device,
        *,
        first: int = 0,
        carries_magnitudes: bool = False,
        workspace: Workspace | None = None,
    ) -> None:
        """
        Args:
            layout: of the flat vector.
            encoders: of the hosted workers.
            work: the ballots' alphabet, the encoders' binning, and how ballots combine.
            exchange: carries the ballots.
            settings: seed and compile.
            device: where the gradients are.
            first: where the vector begins in the flat vector of the whole model, whose elements
                random bits count.
            carries_magnitudes: whether headers hold the mean magnitude of each tensor's gradient,
                4 bytes a tensor.
            workspace: memory, free again between rounds; new memory without.
        """
        self.alphabet = work.alphabet
        self.layout = layout
        self.exchange = exchange
        self.workspace = workspace or Workspace()
        self._encoders = encoders
        self._combine = work.combine
        self._seed = settings.seed
        self._first = first
        self._device = device
        self._carries_magnitudes = carries_magnitudes
        results = work.combine.alphabet(self.alphabet, exchange.num_workers)
        self._code_dtype, self._result_dtype = self.alphabet.code_dtype, results.code_dtype
        self._header_bytes = header_num_bytes(len(layout.spans))
        extra_bytes = _FLOAT_BYTES * len(layout.spans) if carries_magnitudes else 0
        self._format = RoundFormat(
            WireFormat(layout.numel, self.alphabet, self._header_bytes + extra_bytes),
            WireFormat(layout.numel, results),
        )
        num_bits, zeros = self.alphabet.largest.bit_length(), self.alphabet.zeros
        self.box = BallotBox(layout, exchange, self._format, num_bits, zeros, device)
        num_shards = exchange.num_shards
        self._verify_fraction = settings.verify_fraction
        self._shards = [shard_span(layout.numel, num_shards, i) for i in range(num_shards)]
        choice = choose(settings.compile, work, layout.numel, exchange.num_workers)
        may_fall_back = settings.compile == "auto"
        self.codec, self._result_codec = (
            codec_for(CodecSpec(alphabet, work.binning, device.type, choice, may_fall_back))
            for alphabet in (self.alphabet, results)
        )

    # A gradient becomes a ballot.

    def compress(self, slot: int, gradient: Gradient, round_: int) -> None:
        """1. Sums of the gradient, which tell whether it is finite. 2. Its codes. 3. Packed, shard
        by shard. 4. A header in front.

        Raises:
            SettingError: with error feedback, a second one of the same round.
        """
        worker, encoder = self.exchange.hosted[slot], self._encoders[slot]
        if encoder.has_feedback and slot in self.box.cast:
            raise SettingError(
                f"worker {worker} compresses twice before a step; with error feedback its first "
                "ballot would count as sent"
            )
        sums = self.codec.magnitudes(gradient) if self._carries_magnitudes else gradient.sums
        is_finite = all(map(math.isfinite, sums))
        non_finite = None if is_finite else gradient.first_non_finite()
        if non_finite is not None:
            gradient = gradient.absent()
        if any(gradient.present):
            self._encode(slot, worker, gradient, round_)
        else:
            self.box.payload(slot).zero_()
        header = self.box.header(worker, round_, gradient.present, non_finite)
        if self._carries_magnitudes and (smoothed := encoder.smoothed(gradient)) is not gradient:
            sums = self.codec.magnitudes(smoothed)
        self.box.put(slot, header, self._means(gradient, sums))

    def _encode(self, slot: int, worker: int, gradient: Gradient, round_: int) -> None:
        codes = self._codes(self.layout.numel, self._code_dtype)
        bits = self._bits(BREAK_ZERO, round_, worker)
        self._encoders[slot].encode(codes, gradient, bits, self.codec)
        for absent in gradient.absent_spans():
            codes[absent.slice] = 0
        for packed, shard in zip(self.box.payload(slot), self._shards, strict=True):
            self.codec.pack(packed, codes[shard.slice])

    def _means(self, gradient: Gradient, sums: Sequence[float]) -> Tensor | None:
        """The mean magnitude of each tensor's gradient, as bytes of float32 for a header."""
        if not self._carries_magnitudes:
            return None
        of_parts = iter(sums)
        means = [
            next(of_parts) / max(span.numel, 1) if is_present else 0.0
            for span, is_present in zip(self.layout.spans, gradient.present, strict=True)
        ]
        # The sum of large finite numbers may be infinite.
        wire = torch.tensor(means, dtype=torch.float32).nan_to_num(0, 0, 0)
        return wire.view(torch.uint8)

    # Ballots become a result.

    @property
    def cast(self) -> Collection[int]:
        return self.box.cast

    def aggregate(self, round_: int) -> Outcome:
        """1. Everybody's ballots come to those who count them. 2. They are counted. 3. Where each
        process counts a shard, the results come to all."""
        headers, received = self.box.exchange(round_)
        voters = voters_of(headers, self.layout)
        if not voters:
            return Outcome(headers, voters, received, None)
        shard = self._shards[self.exchange.shard]
        codes = self._count(voters, self._checked_ballots(received, shard), shard, round_)
        if len(self._shards) > 1:
            codes = self._collect(codes)
            self._recount_some(codes, round_)
        return Outcome(headers, voters, received, codes)

    def ballots(self, received: Tensor) -> Tensor:
        """The packed codes behind the headers."""
        return received[:, self._format.ballot.header_bytes :]

    def _checked_ballots(self, received: Tensor, shard: Span) -> Tensor:
        """Raises DamagedDataError, with the worker's name, for codes that cannot be."""
        ballots = self.ballots(received)
        try:
            self.codec.check(ballots, shard.numel)
        except DamagedDataError:
            for worker, row in enumerate(ballots):
                with naming(f"the ballot of worker {worker}"):
                    self.codec.check(row[None], shard.numel)
            raise
        return ballots

    def _count(self, voters: Sequence[Voters], ballots: Tensor, shard: Span, round_: int) -> Tensor:
        """The results of a shard, as codes."""
        codes = self._codes(shard.numel, self._result_dtype)
        here = [
            Voters(span.shifted(-shard.start), workers)
            for span, workers in voters_within(voters, shard)
        ]
        bits = self._bits(BREAK_TIE, round_) if self._combine.breaks_ties else None
        its_bits = None if bits is None else bits.at(shard.start)
        self.codec.count(codes, ballots, here, self._combine, its_bits)
        return codes

    def _collect(self, codes: Tensor) -> Tensor:
        """Everybody's results, from those of this process's shard."""
        assert self._format.result is not None
        num_bytes = self._format.result.size_bytes(len(self._shards))
        packed = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        self._result_codec.pack(packed, codes)
        collected = self.exchange.collect(packed, self._format)
        everyones = self._codes(self.layout.numel, self._result_dtype)
        for rank, (shard, row) in enumerate(zip(self._shards, collected, strict=True)):
            with naming(f"the results of rank {rank}"):
                self._result_codec.check(row[None], shard.numel)
            self._result_codec.unpack(everyones[shard.slice], row)
        return everyones

    def _recount_some(self, codes: Tensor, round_: int) -> None:
        """In some rounds each process counts another one's shard once more. Which ones, nobody
        knows before the results are there: all draw together.

        Raises:
            PeerError: on every process alike, if results are not what the ballots come to.
        """
        if not self._verify_fraction:
            return
        drawn = self._drawn_together()
        if drawn >= self._verify_fraction * _NUM_DRAWS:
            return
        num_shards = len(self._shards)
        offset = 1 + drawn % (num_shards - 1)
        is_right = self._is_right(codes, (self.exchange.shard + offset) % num_shards, round_)
        everyones = self.exchange.share(torch.tensor([is_right], dtype=torch.uint8)).flatten()
        wrong = [rank for rank, verdict in enumerate(everyones.tolist()) if not verdict]
        if wrong:
            raise PeerError(
                "; ".join(
                    f"the results of rank {(rank + offset) % num_shards} in round {round_} are not "
                    f"what the ballots come to, says rank {rank}, which has counted again"
                    for rank in wrong
                )
            )

    def _drawn_together(self) -> int:
        """A number below _NUM_DRAWS that no process alone can choose: the sum of everybody's."""
        mine = torch.frombuffer(bytearray(os.urandom(_DRAW_BYTES)), dtype=torch.uint8)
        rows = self.exchange.share(mine).cpu().numpy()
        return sum(int.from_bytes(row.tobytes(), "little") for row in rows) % _NUM_DRAWS

    def _is_right(self, codes: Tensor, other: int, round_: int) -> bool:
        """Whether the results of another shard are what its ballots come to. `codes` lie in the
        buffer that counting needs, and come back to it."""
        shard, results = self._shards[other], codes.clone()
        headers, received = self.box.exchange_again(round_, other)
        ballots = self._checked_ballots(received, shard)
        counted = self._count(voters_of(headers, self.layout), ballots, shard, round_)
        is_right = torch.equal(counted, results[shard.slice])
        codes.copy_(results)
        return is_right

    def updates(self, outcome: Outcome) -> Iterator[tuple[Span, Tensor]]:
        codec, combine = self._result_codec, self._combine
        if outcome.result is None:
            return
        for span, workers in outcome.voters:
            for part in span.chunks(codec.chunk_numel):
                update = self.workspace.take("update", part.numel, torch.float32, self._device)
                codec.decode(update, outcome.result[part.slice])
                yield part, combine.update(update, len(workers))

    # For clients that put a vote back into the gradient's units.

    def median_magnitudes(self, outcome: Outcome) -> Tensor:
        """By parameter, the lower median over those who vote on it of what their headers say: fewer
        than half of them cannot move it beyond what the others say.

        Raises:
            DamagedDataError: a header says what cannot be.
        """
        end = self._format.ballot.header_bytes
        wire = outcome.received[:, self._header_bytes : end].cpu().contiguous()
        means = wire.view(torch.float32)
        for header, row in zip(outcome.headers, means, strict=True):
            if not bool((row.isfinite() & (row >= 0)).all()):
                raise DamagedDataError(
                    f"worker {header.worker} sends a mean magnitude that cannot be one"
                )
        votes = torch.tensor([header.present for header in outcome.headers])
        medians: Tensor = means.masked_fill(~votes, math.nan).nanmedian(0).values
        return medians.nan_to_num(0.0)

    def pending(self) -> dict[str, Tensor]:
        return self.box.pending()

    def pending_kinds(self) -> dict[str, Kind]:
        return self.box.pending_kinds()

    def restore(self, pending: Mapping[str, Tensor], round_: int) -> None:
        self.box.restore(pending, round_)

    def _bits(self, purpose: str, *counters: int) -> BitStream | None:
        """The random bits of the vector; None where zeros are kept."""
        if self.alphabet.zeros:
            return None
        return BitStream(derive_key(self._seed, purpose, *counters), self._first)

    def _codes(self, numel: int, dtype: torch.dtype) -> Tensor:
        """One buffer for a worker's codes, a shard's results, and everybody's: each is packed
        before the next is written."""
        return self.workspace.take("codes", numel, dtype, self._device)

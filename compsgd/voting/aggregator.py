"""One round of N workers: gradients become ballots, and ballots one update.

gradient -> encoder -> codes -> codec -> packed ballot -> exchange -> codec and combine -> codes of
the result -> update. Every client comes in here: the optimizers, the hook, a user's own loop.
"""

import functools
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compsgd.codec.base import CodecSpec
from compsgd.codec.blocks import packed_size
from compsgd.codec.compiling import Work, choose
from compsgd.codec.registry import codec_for
from compsgd.errors import DamagedDataError, PeerError, SettingError
from compsgd.gradient import Gradient
from compsgd.kinds import Kind, TensorOf
from compsgd.layout import FlatLayout, Span, Workspace, voters_within
from compsgd.rng import BREAK_TIE, BREAK_ZERO, BitStream, derive_key
from compsgd.settings import VoteSettings
from compsgd.voting.ballot import BallotBox, header_num_bytes, naming, voters_of
from compsgd.voting.chunks import MAGNITUDE_BYTES, Chunk, best_num_chunks, cut
from compsgd.voting.encoder import Encoder
from compsgd.voting.exchange import Arrival, Exchange
from compsgd.voting.host_tally import HostTally, sums_between_hosts
from compsgd.voting.outcome import Outcome
from compsgd.voting.tally import BallotTally, Tally

_DRAW_BYTES = 8
_NUM_DRAWS = 1 << 8 * _DRAW_BYTES


@dataclass(frozen=True)
class Underway:
    """Ballots of a round on their way: by chunk, what waits for them."""

    round: int
    arrivals: Sequence[Arrival]


class LevelAggregator:
    """An `Aggregator` of packed levels.

    Attributes:
        alphabet: of the ballots.
        chunks: how the vector travels.
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
            settings: seed, num_chunks, verify_fraction and compile.
            device: where the gradients are.
            first: where the vector begins in the flat vector of the whole model, whose elements
                random bits count.
            carries_magnitudes: whether ballots hold the mean magnitude of each tensor's gradient,
                4 bytes a tensor; gradients come in parts for each parameter then.
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
        self._verify_fraction = settings.verify_fraction
        results = work.combine.alphabet(self.alphabet, exchange.num_workers)
        self._code_dtype, self._result_dtype = self.alphabet.code_dtype, results.code_dtype
        self._alphabets = self.alphabet, results
        self._cut(settings.num_chunks or 1)
        # Until all processes meet for the first time.
        is_long = best_num_chunks(layout.numel, math.inf) > 1
        self._is_to_be_cut = settings.num_chunks is None and exchange.num_processes > 1 and is_long
        choice = choose(settings.compile, work, layout.numel, exchange.num_workers)
        may_fall_back = settings.compile == "auto"
        self.codec, self._result_codec = (
            codec_for(CodecSpec(alphabet, work.binning, device.type, choice, may_fall_back))
            for alphabet in self._alphabets
        )
        self._tally = self._tally_for(exchange)

    def _tally_for(self, exchange: Exchange) -> Tally:
        codecs = self.codec, self._result_codec
        if exchange.outer is None:
            return BallotTally(exchange, *codecs, self._combine, self._device)
        if self._verify_fraction:
            raise SettingError(
                f"verify_fraction is {self._verify_fraction:g}, but with exchange='hierarchical' "
                "no process has the ballots of all; take scatter_reduce"
            )
        return HostTally(exchange, *codecs, self._combine, self._device, self.workspace)

    def _cut(self, num_chunks: int) -> None:
        """Between rounds: the next one travels in so many chunks."""
        layout, exchange = self.layout, self.exchange
        header_bytes = header_num_bytes(len(layout.spans))
        self.chunks = cut(
            layout, num_chunks, exchange, self._alphabets, header_bytes, self._carries_magnitudes,
            sums_between_hosts(self.alphabet, exchange),
        )  # fmt: skip
        formats = [chunk.format for chunk in self.chunks]
        num_bits, zeros = self.alphabet.largest.bit_length(), self.alphabet.zeros
        self.box = BallotBox(layout, exchange, formats, num_bits, zeros, self._device)

    # A gradient becomes a ballot.

    def compress(self, slot: int, gradient: Gradient, round_: int) -> None:
        """
        Raises:
            SettingError: with error feedback, a second one of the same round.
        """
        if self._encoders[slot].has_feedback and slot in self.box.cast:
            raise SettingError(
                f"worker {self.exchange.hosted[slot]} compresses twice before a step; with error "
                "feedback its first ballot would count as sent"
            )
        for _ in self._written(slot, gradient, round_):
            pass

    def _written(self, slot: int, gradient: Gradient, round_: int) -> Iterator[int]:
        """1. Sums of the gradient tell whether it is finite. 2. A header. Then, chunk after chunk:
        3. Its codes, packed, shard by shard. 4. How large the gradients are that end in it.

        Yields:
            the chunk that is written.
        """
        worker, encoder = self.exchange.hosted[slot], self._encoders[slot]
        is_finite = all(map(math.isfinite, gradient.sums))
        non_finite = None if is_finite else gradient.first_non_finite()
        if non_finite is not None:
            gradient = gradient.absent()
        self.box.put(slot, self.box.header(worker, round_, gradient.present, non_finite))
        bits = self._bits(BREAK_ZERO, round_, worker)
        sent = _by_parameter(encoder.smoothed(gradient)) if self._carries_magnitudes else {}
        for index, chunk in enumerate(self.chunks):
            self._encode(self.box.payload(slot, index), chunk, encoder, gradient, bits)
            if self._carries_magnitudes:
                self.box.put_extra(slot, index, self._means(chunk, sent))
            yield index

    def _encode(
        self,
        payload: Tensor,
        chunk: Chunk,
        encoder: Encoder,
        gradient: Gradient,
        bits: BitStream | None,
    ) -> None:
        part = gradient.within(chunk.span, chunk.parameters, chunk.layout)
        if not any(part.present):
            payload.zero_()
            return
        codes = self._codes(self._code_dtype)[chunk.span.slice]
        its_bits = None if bits is None else bits.at(chunk.span.start)
        encoder.part(chunk.span).encode(codes, part, its_bits, self.codec)
        for absent in part.absent_spans():
            codes[absent.slice] = 0
        for packed, shard in zip(payload, chunk.shards, strict=True):
            self.codec.pack(packed, codes[shard.slice])

    def _means(self, chunk: Chunk, sent: Mapping[int, Tensor]) -> Tensor:
        """The mean magnitude of each parameter that ends in a chunk, as bytes of float32."""
        here = [index for index in chunk.ending if index in sent]
        sums = self.codec.magnitudes([sent[index] for index in here])
        means = dict.fromkeys(chunk.ending, 0.0)
        for index, total in zip(here, sums, strict=True):
            means[index] = total / max(sent[index].numel(), 1)
        # The sum of large finite numbers may be infinite.
        wire = torch.tensor(list(means.values()), dtype=torch.float32).nan_to_num(0, 0, 0)
        return wire.view(torch.uint8)

    # Ballots become a result.

    @property
    def cast(self) -> Collection[int]:
        return self.box.cast

    def aggregate(self, round_: int, gradient: Gradient | None = None) -> Outcome:
        return self.count(self.send(round_, gradient))

    def send(self, round_: int, gradient: Gradient | None = None) -> Underway:
        """Everybody's ballots set out to those who count them, chunk after chunk; a gradient is
        coded while the chunks before are on their way."""
        if self._is_to_be_cut:
            self._cut_as_pays(round_)
        everything = range(len(self.chunks))
        written = everything if gradient is None else self._written(0, gradient, round_)
        arrivals: list[Arrival] = []
        for index in written:
            if not arrivals:
                self.box.close(round_)
            arrivals.append(self.box.send(index))
        return Underway(round_, arrivals)

    def _cut_as_pays(self, round_: int) -> None:
        """Whatever has been compressed already moves into the new chunks."""
        self._is_to_be_cut = False
        (whole,) = self.chunks
        travel_s = self.exchange.travel_s(whole.format)
        num_chunks = best_num_chunks(self.layout.numel, travel_s)
        if num_chunks > 1:
            pending = self.pending()
            self._cut(num_chunks)
            self.restore(pending, round_)

    def count(self, underway: Underway) -> Outcome:
        """Who votes, and the results, chunk after chunk as ballots come: counted here and now where
        the others wait for them, and else when they are asked for."""
        arrivals = self._tally.forward(self.box, self.chunks, underway.arrivals, underway.round)
        received = [arrivals[0]()]
        everyones = self._tally.headers(received[0], self.chunks[0])
        headers = self.box.headers(everyones, underway.round)
        voters = voters_of(headers, self.layout)
        if not voters:
            received += [arrival() for arrival in arrivals[1:]]
            return Outcome(headers, voters, received, None)
        results = self._codes(self._result_dtype)
        outcome = Outcome(headers, voters, received, results)
        count = functools.partial(self._count, outcome, arrivals, underway.round)
        if self.exchange.num_shards == 1:
            for index, chunk in enumerate(self.chunks):
                outcome.expect(chunk.span, functools.partial(count, index))
            return outcome
        sent = []
        for index, chunk in enumerate(self.chunks):
            count(index)
            sent.append(self._tally.send_results(chunk, results[chunk.span.slice]))
        for chunk, send_on in zip(self.chunks, sent, strict=True):
            outcome.expect(chunk.span, send_on())
        self._recount_some(outcome, underway.round)
        return outcome

    def _count(
        self, outcome: Outcome, arrivals: Sequence[Arrival], round_: int, index: int
    ) -> None:
        """Waits for the ballots of a chunk, and writes the results of this process's shard."""
        assert outcome.result is not None, "somebody votes"
        if index:
            outcome.received.append(arrivals[index]())
        chunk = self.chunks[index]
        shard = self._tally.shard(chunk)
        codes = outcome.result[chunk.span.slice][shard.slice]
        bits = self._tie_bits(round_)
        self._tally.count(codes, outcome.received[index], chunk, shard, outcome.voters, bits)

    def _tie_bits(self, round_: int) -> BitStream | None:
        return self._bits(BREAK_TIE, round_) if self._combine.breaks_ties else None

    def _recount_some(self, outcome: Outcome, round_: int) -> None:
        """In some rounds each process counts another one's shard once more. Which ones, nobody
        knows before the results are there: all draw together.

        Raises:
            PeerError: on every process alike, if results are not what the ballots come to.
        """
        num_shards = self.exchange.num_shards
        if num_shards == 1 or not self._verify_fraction:
            return
        outcome.complete()
        drawn = self._drawn_together()
        if drawn >= self._verify_fraction * _NUM_DRAWS:
            return
        offset = 1 + drawn % (num_shards - 1)
        is_right = self._is_right(outcome, (self.exchange.shard + offset) % num_shards, round_)
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

    def _is_right(self, outcome: Outcome, other: int, round_: int) -> bool:
        """Whether the results of another shard are what its ballots come to."""
        assert outcome.result is not None, "somebody votes"
        received = [self.box.send_again(index, other)() for index in range(len(self.chunks))]
        voters = voters_of(self.box.headers(received[0], round_), self.layout)
        bits = self._tie_bits(round_)
        for chunk, rows in zip(self.chunks, received, strict=True):
            shard = chunk.shards[other]
            counted = torch.empty(shard.numel, dtype=self._result_dtype, device=self._device)
            self._tally.count(counted, rows, chunk, shard, voters, bits)
            if not torch.equal(counted, outcome.result[chunk.span.slice][shard.slice]):
                return False
        return True

    def updates(self, outcome: Outcome) -> Iterator[tuple[Span, Tensor]]:
        codec, combine = self._result_codec, self._combine
        if outcome.result is None:
            return
        for arrived in outcome.arrivals():
            for span, workers in voters_within(outcome.voters, arrived):
                for part in span.chunks(codec.chunk_numel):
                    update = self.workspace.take("update", part.numel, torch.float32, self._device)
                    codec.decode(update, outcome.result[part.slice])
                    yield part, combine.update(update, len(workers))

    # For clients that put a vote back into the gradient's units.

    def median_magnitudes(self, outcome: Outcome, index: int) -> Tensor:
        """Of each parameter that ends in a chunk, the lower median over those who vote on it of
        what their ballots say: fewer than half of them cannot move it beyond what the others say.

        Args:
            index: of a chunk that has arrived.

        Raises:
            DamagedDataError: a ballot says what cannot be.
        """
        chunk = self.chunks[index]
        means = _means_in(self._tally.headers(outcome.received[index], chunk), chunk)
        for header, row in zip(outcome.headers, means, strict=True):
            if not bool((row.isfinite() & (row >= 0)).all()):
                raise DamagedDataError(
                    f"worker {header.worker} sends a mean magnitude that cannot be one"
                )
        ending = slice(chunk.ending.start, chunk.ending.stop)
        present = [header.present[ending] for header in outcome.headers]
        votes = torch.tensor(present, dtype=torch.bool)
        medians: Tensor = means.masked_fill(~votes, math.nan).nanmedian(0).values
        return medians.nan_to_num(0.0)

    # Saving in mid-round.

    def pending(self) -> dict[str, Tensor]:
        pending = self.box.pending()
        for slot in self.box.cast:
            pending[f"codes.{self.exchange.hosted[slot]}"] = self._packed_whole(slot)
        return pending

    def _packed_whole(self, slot: int) -> Tensor:
        """A ballot's codes, however they travel."""
        codes = self._codes(self._code_dtype)
        for index, chunk in enumerate(self.chunks):
            for packed, shard in zip(self.box.payload(slot, index), chunk.shards, strict=True):
                self.codec.unpack(codes[chunk.span.slice][shard.slice], packed)
        packed = torch.empty(self._packed_bytes, dtype=torch.uint8, device=self._device)
        self.codec.pack(packed, codes)
        return packed

    @property
    def _packed_bytes(self) -> int:
        return packed_size(self.layout.numel, self.alphabet)

    def pending_kinds(self) -> dict[str, Kind]:
        kind = TensorOf((self._packed_bytes,), [torch.uint8])
        codes = {f"codes.{worker}": kind for worker in self.exchange.hosted}
        return self.box.pending_kinds() | codes

    def restore(self, pending: Mapping[str, Tensor], round_: int) -> None:
        headers = {name: one for name, one in pending.items() if name.startswith("ballot.")}
        whole = {
            int(name.rpartition(".")[2]): one.to(self._device)
            for name, one in pending.items()
            if name not in headers
        }
        self._check_restored(headers, whole)
        self.box.restore(headers, round_)
        for worker, packed in whole.items():
            slot = list(self.exchange.hosted).index(worker)
            codes = self._codes(self._code_dtype)
            self.codec.unpack(codes, packed)
            for index, chunk in enumerate(self.chunks):
                for row, shard in zip(self.box.payload(slot, index), chunk.shards, strict=True):
                    self.codec.pack(row, codes[chunk.span.slice][shard.slice])

    def _check_restored(self, headers: Mapping[str, Tensor], whole: Mapping[int, Tensor]) -> None:
        """Raises SettingError or DamagedDataError, before anything is taken over."""
        if {f"ballot.{worker}" for worker in whole} != set(headers):
            raise SettingError("this state's ballots lack headers or codes")
        for worker, packed in whole.items():
            if packed.shape != (self._packed_bytes,):
                raise SettingError(f"this state's ballot of worker {worker} has another size")
            with naming(f"the ballot of worker {worker}"):
                self.codec.check(packed[None], self.layout.numel)

    def _bits(self, purpose: str, *counters: int) -> BitStream | None:
        """The random bits of the vector; None where zeros are kept."""
        if self.alphabet.zeros:
            return None
        return BitStream(derive_key(self._seed, purpose, *counters), self._first)

    def _codes(self, dtype: torch.dtype) -> Tensor:
        """One buffer for a worker's codes and everybody's results: each chunk is packed before its
        results are written."""
        return self.workspace.take("codes", self.layout.numel, dtype, self._device)


def _by_parameter(gradient: Gradient) -> dict[int, Tensor]:
    """The values of a gradient in parts for each parameter."""
    present = [index for index, is_present in enumerate(gradient.present) if is_present]
    return dict(zip(present, (values for _, values in gradient.parts), strict=True))


def _means_in(received: Tensor, chunk: Chunk) -> Tensor:
    """What stands in front of a chunk's codes: float32, shape (num_workers, parameters that end in
    it)."""
    end = chunk.format.ballot.header_bytes
    wire = received[:, end - MAGNITUDE_BYTES * len(chunk.ending) : end].cpu().contiguous()
    return wire.view(torch.float32)

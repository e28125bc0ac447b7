"""Counting in two levels: ballots of a host become sums, and sums of all hosts results (design,
section 3)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from compsgd.codec.alphabet import (
    Alphabet,
    codes_to_levels,
    magnitudes_to_codes,
    sum_alphabet,
)
from compsgd.codec.base import Codec, CodecSpec
from compsgd.codec.combine import MEAN, Combine
from compsgd.codec.registry import codec_for
from compsgd.codec.wire import RoundFormat, WireFormat
from compsgd.layout import Span, Voters, Workspace, shard_numel, shard_span, voters_within
from compsgd.rng import BitStream, random_bits
from compsgd.voting.ballot import BallotBox, naming, voters_of
from compsgd.voting.chunks import Chunk
from compsgd.voting.exchange import Arrival, Exchange
from compsgd.voting.tally import (
    Wait,
    check_ballots,
    packed_results,
    payload,
    unpack_results,
)


class HostTally:
    """See `compsgd.voting.tally.Tally`: this process adds up its shard of the ballots of its host,
    and counts a part of the sums of that shard of all hosts.

    Attributes:
        workers: those of the host, in the order in which their ballots come.
    """

    def __init__(
        self,
        exchange: Exchange,
        codec: Codec,
        result_codec: Codec,
        combine: Combine,
        device: torch.device,
        workspace: Workspace,
    ) -> None:
        """
        Args:
            exchange: one with an outer exchange.
            codec, result_codec: of ballots and results.
            combine: how ballots become a result.
            device: where they are.
            workspace: memory, free again between rounds.
        """
        assert exchange.outer is not None, "there are hosts"
        self._inner, self._outer = exchange, exchange.outer
        self._codec, self._result_codec = codec, result_codec
        self._combine = combine
        self._device = device
        self._workspace = workspace
        self.workers = _workers_of_host(exchange)
        self._sums = sums_between_hosts(codec.alphabet, exchange)[0]
        self._sum_codec = codec_for(CodecSpec(self._sums, None, device.type, "off", False))

    def forward(
        self, box: BallotBox, chunks: Sequence[Chunk], arrivals: Sequence[Arrival], round_: int
    ) -> Sequence[Arrival]:
        """Sums set out to those who count them on every host."""
        voters: list[Voters] = []
        found = []
        for index, (chunk, arrival) in enumerate(zip(chunks, arrivals, strict=True)):
            rows = arrival()
            if index == 0:
                headers = box.headers(rows, round_, self.workers)
                voters = voters_of(headers, box.layout)
            found.append(self._send_sums(chunk, rows, voters))
        return found

    def _send_sums(self, chunk: Chunk, rows: Tensor, voters: Sequence[Voters]) -> Arrival:
        """Headers and sums: a message to each host."""
        format, shard = self._format(chunk), chunk.shards[self._inner.shard]
        sums = self._added(chunk, rows, shard, voters)
        header_bytes = format.ballot.header_bytes
        messages = torch.empty(
            len(self._parts(chunk)), format.ballot.size_bytes(self._outer.num_shards),
            dtype=torch.uint8, device=self._device,
        )  # fmt: skip
        messages[:, :header_bytes] = rows[:, : chunk.format.ballot.header_bytes].flatten()
        for message, part in zip(messages, self._parts(chunk), strict=True):
            self._sum_codec.pack(message[header_bytes:], sums[part.slice])
        return self._outer.distribute(messages[None], format)

    def _added(self, chunk: Chunk, rows: Tensor, shard: Span, voters: Sequence[Voters]) -> Tensor:
        """Codes of the sums of this host's ballots; of 0 where none of its workers votes."""
        ballots = payload(rows, chunk)
        check_ballots(self._codec, ballots, shard.numel, self.workers)
        place = shard.shifted(chunk.span.start)
        dtype = self._sums.code_dtype
        sums = self._workspace.take("host sums", shard.numel, dtype, self._device)
        here = [
            Voters(span.shifted(-place.start), tuple(map(self.workers.index, workers)))
            for span, workers in voters_within(voters, place)
        ]
        self._codec.count(sums, ballots, here, MEAN, None)
        reached = 0
        for span, _ in [*here, Voters(Span(shard.numel, shard.numel), ())]:
            sums[reached : span.start] = self._sums.largest
            reached = span.end
        return sums

    def headers(self, rows: Tensor, chunk: Chunk) -> Tensor:
        num_bytes, per_process = chunk.format.ballot.header_bytes, len(self._inner.hosted)
        everyones = rows[:, : len(self.workers) * num_bytes].reshape(
            len(rows), per_process, self._inner.num_shards, num_bytes
        )
        # Worker i lives on process i mod W: hosts, and processes within them, come innermost.
        return everyones.transpose(0, 1).reshape(-1, num_bytes)

    def shard(self, chunk: Chunk) -> Span:
        part = self._parts(chunk)[self._outer.shard]
        return part.shifted(chunk.shards[self._inner.shard].start)

    def count(
        self,
        codes: Tensor,
        rows: Tensor,
        chunk: Chunk,
        shard: Span,
        voters: Sequence[Voters],
        bits: BitStream | None,
    ) -> None:
        total = self._total(rows, chunk, shard.numel)
        place = shard.shifted(chunk.span.start)
        ties = None
        if bits is not None:
            here = bits.at(place.start)
            ties = random_bits(here.key, here.start, shard.numel, self._device)
        codes.zero_()
        for span, workers in voters_within(voters, place):
            part = span.shifted(-place.start).slice
            num_voters = torch.tensor(float(len(workers)), device=self._device)
            result = self._combine.result(total[part], num_voters).to(torch.int32)
            its_ties = None if ties is None else ties[part]
            codes[part] = magnitudes_to_codes(
                result.abs(), result >> 31, its_ties, self._result_codec.alphabet
            )

    def _total(self, rows: Tensor, chunk: Chunk, numel: int) -> Tensor:
        """Levels of all workers, added up; int32, shape (numel,).

        Raises:
            DamagedDataError: codes that cannot be, with the host's name.
        """
        packed = rows[:, self._format(chunk).ballot.header_bytes :]
        codes = self._workspace.take("sum codes", numel, self._sums.code_dtype, self._device)
        total = torch.zeros(numel, dtype=torch.int32, device=self._device)
        for host, row in enumerate(packed):
            with naming(f"the sums of host {host}"):
                self._sum_codec.check(row[None], numel)
            self._sum_codec.unpack(codes, row)
            total += codes_to_levels(codes, self._sums)
        return total

    def send_results(self, chunk: Chunk, codes: Tensor) -> Callable[[], Wait]:
        format, shard = self._format(chunk), chunk.shards[self._inner.shard]
        assert format.result is not None
        num_bytes = format.result.size_bytes(self._outer.num_shards)
        own = codes[self.shard(chunk).slice]
        packed = packed_results(self._result_codec, own, num_bytes, self._device)
        arrival = self._outer.collect(packed, format)
        return partial(self._send_on, chunk, codes, shard, arrival)

    def _send_on(self, chunk: Chunk, codes: Tensor, shard: Span, arrival: Arrival) -> Wait:
        """The results of the whole shard, from all hosts, go to the others of this host."""
        assert chunk.format.result is not None
        own = codes[shard.slice]
        unpack_results(self._result_codec, own, self._parts(chunk), arrival())
        num_bytes = chunk.format.result.size_bytes(len(chunk.shards))
        packed = packed_results(self._result_codec, own, num_bytes, self._device)
        inside = self._inner.collect(packed, chunk.format)
        return lambda: unpack_results(self._result_codec, codes, chunk.shards, inside())

    def _parts(self, chunk: Chunk) -> list[Span]:
        """Of this process's shard, what each host counts."""
        numel, shard = self._numel(chunk), chunk.shards[self._inner.shard]
        whole = Span(0, shard.numel)
        num_hosts = self._outer.num_shards
        return [shard_span(numel, num_hosts, host).within(whole) for host in range(num_hosts)]

    def _format(self, chunk: Chunk) -> RoundFormat:
        """What travels between hosts."""
        numel, ballot = self._numel(chunk), chunk.format.ballot
        return RoundFormat(
            WireFormat(numel, self._sums, ballot.header_bytes * len(self.workers)),
            WireFormat(numel, self._result_codec.alphabet),
        )

    def _numel(self, chunk: Chunk) -> int:
        """Elements of a shard; the last ones may hold fewer."""
        return shard_numel(chunk.span.numel, self._inner.num_shards)


def sums_between_hosts(ballots: Alphabet, exchange: Exchange) -> list[Alphabet]:
    """The alphabet of what travels between hosts; none where there are no hosts."""
    if exchange.outer is None:
        return []
    return [sum_alphabet(ballots, exchange.num_workers // exchange.outer.num_workers)]


def _workers_of_host(exchange: Exchange) -> list[int]:
    """Those whose ballots an exchange brings, in that order."""
    return [
        worker - exchange.shard + place
        for worker in exchange.hosted
        for place in range(exchange.num_shards)
    ]

"""Counting: packed ballots become results, and results go to everybody."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from compsgd.codec.base import Codec
from compsgd.codec.combine import Combine
from compsgd.errors import DamagedDataError
from compsgd.layout import Span, Voters, voters_within
from compsgd.rng import BitStream
from compsgd.voting.ballot import BallotBox, naming
from compsgd.voting.chunks import Chunk
from compsgd.voting.exchange import Arrival, Exchange

# Waits for results, and writes them.
Wait: TypeAlias = Callable[[], None]


class Tally(Protocol):
    """How one process counts its part; all processes call the same in the same order."""

    def forward(
        self, box: BallotBox, chunks: Sequence[Chunk], arrivals: Sequence[Arrival], round_: int
    ) -> Sequence[Arrival]:
        """What is counted here sets out, as ballots arrive.

        Args:
            box: knows their headers.
            chunks: of the vector.
            arrivals: of the ballots of each.
            round_: of all.

        Returns:
            for each chunk what waits for rows, uint8, that `headers` and `count` take.
        """

    def headers(self, rows: Tensor, chunk: Chunk) -> Tensor:
        """What stands in front of every worker's ballot: uint8, shape (N, header bytes or more)."""

    def shard(self, chunk: Chunk) -> Span:
        """The elements of a chunk that are counted here, from its beginning."""

    def count(
        self,
        codes: Tensor,
        rows: Tensor,
        chunk: Chunk,
        shard: Span,
        voters: Sequence[Voters],
        bits: BitStream | None,
    ) -> None:
        """Writes the results of a shard.

        Args:
            codes: of the results' alphabet, shape (shard.numel,).
            rows: as they have come.
            chunk: of which vector part.
            shard: which of its elements.
            voters: who votes where, of the whole vector.
            bits: of the whole vector, for ties; None where none are broken.

        Raises:
            DamagedDataError: codes that cannot be, with the name of who has sent them.
        """

    def send_results(self, chunk: Chunk, codes: Tensor) -> Callable[[], Wait]:
        """Sends those of `shard`. What is returned sends them on, and returns what waits until
        everybody's are written into `codes`, which are those of the chunk."""


class BallotTally:
    """See `Tally`: of everybody's ballots, the shard that the exchange has brought here."""

    def __init__(
        self,
        exchange: Exchange,
        codec: Codec,
        result_codec: Codec,
        combine: Combine,
        device: torch.device,
    ) -> None:
        """
        Args:
            exchange: carries ballots and results.
            codec, result_codec: of them.
            combine: how ballots become a result.
            device: where they are.
        """
        self._exchange = exchange
        self._codec, self._result_codec = codec, result_codec
        self._combine = combine
        self._device = device

    def forward(
        self, box: BallotBox, chunks: Sequence[Chunk], arrivals: Sequence[Arrival], round_: int
    ) -> Sequence[Arrival]:
        """Nothing to do: ballots are counted as they come."""
        return arrivals

    def headers(self, rows: Tensor, chunk: Chunk) -> Tensor:
        return rows

    def shard(self, chunk: Chunk) -> Span:
        return chunk.shards[self._exchange.shard]

    def count(
        self,
        codes: Tensor,
        rows: Tensor,
        chunk: Chunk,
        shard: Span,
        voters: Sequence[Voters],
        bits: BitStream | None,
    ) -> None:
        ballots = payload(rows, chunk)
        check_ballots(self._codec, ballots, shard.numel, range(len(ballots)))
        place = shard.shifted(chunk.span.start)
        here = [
            Voters(span.shifted(-place.start), workers)
            for span, workers in voters_within(voters, place)
        ]
        its_bits = None if bits is None else bits.at(place.start)
        self._codec.count(codes, ballots, here, self._combine, its_bits)

    def send_results(self, chunk: Chunk, codes: Tensor) -> Callable[[], Wait]:
        assert chunk.format.result is not None
        own = codes[self.shard(chunk).slice]
        num_bytes = chunk.format.result.size_bytes(len(chunk.shards))
        packed = packed_results(self._result_codec, own, num_bytes, self._device)
        arrival = self._exchange.collect(packed, chunk.format)
        return lambda: lambda: unpack_results(self._result_codec, codes, chunk.shards, arrival())


def payload(rows: Tensor, chunk: Chunk) -> Tensor:
    """The packed codes behind the headers of ballots."""
    return rows[:, chunk.format.ballot.header_bytes :]


def check_ballots(codec: Codec, ballots: Tensor, numel: int, workers: Sequence[int]) -> None:
    """Raises DamagedDataError, with the worker's name, for codes that cannot be."""
    try:
        codec.check(ballots, numel)
    except DamagedDataError:
        for worker, row in zip(workers, ballots, strict=True):
            with naming(f"the ballot of worker {worker}"):
                codec.check(row[None], numel)
        raise


def packed_results(codec: Codec, codes: Tensor, num_bytes: int, device: torch.device) -> Tensor:
    """Packed codes, and zeros up to so many bytes."""
    packed = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    codec.pack(packed, codes)
    return packed


def unpack_results(codec: Codec, codes: Tensor, shards: Sequence[Span], rows: Tensor) -> None:
    """Writes everybody's results, of a shard each.

    Raises:
        DamagedDataError: codes that cannot be, with the rank's name.
    """
    for rank, (shard, row) in enumerate(zip(shards, rows, strict=True)):
        with naming(f"the results of rank {rank}"):
            codec.check(row[None], shard.numel)
        codec.unpack(codes[shard.slice], row)

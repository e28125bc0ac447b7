"""What the benchmarks measure: the codec, and whole rounds, on an optimizer as users have it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import compsgd
from compsgd.codec.packing import packed_num_bytes
from compsgd.codec.wire import RoundFormat
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.ballot import BallotHeader, header_num_bytes
from compsgd.voting.exchange import Arrival, InProcessExchange
from compsgd.workers.bench.memory import peak_extra_bytes
from compsgd.workers.bench.timing import Timing, time_beside_copies

_FLOAT_BYTES = 4
_COPY_BYTES = 2 * _FLOAT_BYTES
_LR = 1e-4
_DECAY = 0.99
_GRADIENT_SCALE = 1e-3
_MOMENTUM = 0.9
# What a worker keeps beside its range: momentum, and error feedback.
MEMORIES = {
    "range": (False, False),
    "momentum": (True, False),
    "feedback": (False, True),
    "both": (True, True),
}


@dataclass(frozen=True)
class CodecCase:
    """How many elements are discretised and packed, and how."""

    numel: int
    num_bits: int
    binning: str
    zeros: str
    compile: str
    memory: str = "range"

    def build(
        self, num_workers: int, exchange: compsgd.Exchange | None = None
    ) -> compsgd.CompressedSGDVote:
        """An optimizer over one parameter with a gradient, some of whose elements are 0."""
        generator = torch.Generator().manual_seed(0)
        parameter = torch.zeros(self.numel)
        parameter.grad = torch.randn(self.numel, generator=generator) * _GRADIENT_SCALE
        parameter.grad[::4] = 0
        has_momentum, has_feedback = MEMORIES[self.memory]
        return compsgd.CompressedSGDVote(
            [parameter],
            _LR,
            num_bits=self.num_bits,
            binning=self.binning,
            rand_zero=self.zeros == "broken",
            decay_min=_DECAY,
            decay_max=_DECAY,
            momentum=_MOMENTUM if has_momentum else 0.0,
            error_feedback=has_feedback,
            compile=self.compile,
            num_workers=num_workers,
            exchange=exchange,
        )

    @property
    def wire_bytes(self) -> float:
        """Bytes of an element in a ballot."""
        return packed_num_bytes(self.numel, self.num_bits, self.zeros == "kept") / self.numel


class EchoExchange(InProcessExchange):
    """An exchange in which all N workers send what the only one here sends, from memory of their
    own: voting costs what it costs with N processes, and the exchange itself next to nothing."""

    def __init__(self, num_workers: int) -> None:
        super().__init__(num_workers)
        self.hosted: Sequence[int] = range(1)
        self._header_bytes = header_num_bytes(1)
        self._rows: Tensor | None = None

    def distribute(self, ballots: Tensor, format: RoundFormat | None) -> Arrival:
        if self._rows is None:
            self._rows = ballots[0].repeat(self.num_workers, 1)
        header = BallotHeader.from_tensor(ballots[0, 0, : self._header_bytes])
        for worker, row in enumerate(self._rows):
            row[: self._header_bytes] = replace(header, worker=worker).to_tensor()
        rows = self._rows
        return lambda: rows


def measure_codec(case: CodecCase, voters: Sequence[int], repeats: int) -> dict[str, Any]:
    """Times encoding, and voting on so many ballots; with the traffic-only limit of each, the
    bytes that must move over the bytes of a copy."""
    encode = time_beside_copies(_encode_only(case.build(1)), case.numel, repeats)
    # The check reads the gradient; the range's update reads all three and writes two; each vector
    # more is read and written.
    num_floats = 6 + 2 * sum(MEMORIES[case.memory])
    limit = (num_floats * _FLOAT_BYTES + case.wire_bytes) / _COPY_BYTES
    votes = {}
    for num_voters in voters:
        one = case.build(num_voters, EchoExchange(num_voters))
        timing = time_beside_copies(_vote_only(one), case.numel, repeats)
        moved_bytes = 2 * _FLOAT_BYTES + num_voters * case.wire_bytes
        votes[num_voters] = _figures(timing, moved_bytes / _COPY_BYTES, case)
    return {
        **asdict(case),
        "encode": _figures(encode, limit, case),
        "votes": votes,
    }


def measure_round(case: CodecCase, num_workers: int, repeats: int) -> dict[str, Any]:
    """Times whole rounds of workers that are all here: the first, which may compile, and the
    median of others; and the memory they take at their peak beyond the ranges and the packed
    ballots."""
    one = case.build(num_workers)

    def one_round() -> None:
        for worker in range(num_workers):
            one.compress(worker)
        one.step()

    began = time.perf_counter()
    one_round()
    first = time.perf_counter() - began
    timing = time_beside_copies(one_round, case.numel, repeats)
    peak = peak_extra_bytes(one_round)
    peak_bytes = None if peak is None else peak + _aggregator(one).workspace.size_bytes
    return {
        **asdict(case),
        "num_workers": num_workers,
        "first_seconds": first,
        "round_ns": timing.seconds / case.numel * 1e9,
        "round_copies": timing.copies,
        "peak_extra_copies": None
        if peak_bytes is None
        else peak_bytes / (_FLOAT_BYTES * case.numel),
    }


def _encode_only(one: compsgd.CompressedSGDVote) -> Callable[[], Any]:
    """A ballot that is forgotten, as if it had been sent: with error feedback there can be no
    second one."""

    def encode() -> None:
        _aggregator(one).box.cast.clear()
        one.compress()

    return encode


def _vote_only(one: compsgd.CompressedSGDVote) -> Callable[[], Any]:
    """A step without encoding: on the ballot of the first round, which is still there."""
    one.compress()
    box = _aggregator(one).box
    (header,) = box.cast.values()

    def vote() -> None:
        box.put(0, replace(header, round=one.round))
        one.step()

    return vote


def _aggregator(one: compsgd.CompressedSGDVote) -> LevelAggregator:
    assert isinstance(one.aggregator, LevelAggregator)
    return one.aggregator


def _figures(timing: Timing, limit: float, case: CodecCase) -> dict[str, float]:
    return {
        "ns": timing.seconds / case.numel * 1e9,
        "copies": timing.copies,
        "limit_copies": limit,
    }

"""Chunks: how a vector is cut, and that nothing else depends on it."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import Spy, three_rounds

import compsgd
from compsgd import InProcessExchange, VoteSettings
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.combine import MEAN, VOTE
from compsgd.codec.compiling import Work
from compsgd.codec.wire import WireFormat
from compsgd.gradient import gather
from compsgd.layout import FlatLayout
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.chunks import MAGNITUDE_BYTES, best_num_chunks, cut
from compsgd.voting.encoder import WorkerEncoder
from compsgd.voting.tally import BallotTally, payload

HEADER_BYTES = 28
# Of 3 bits, for two workers and three shards: 2 * 3 * 4096 elements.
UNIT = 24_576


@settings(max_examples=200)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 9), st.integers(0, 90_000)), min_size=1, max_size=9),
    num_chunks=st.integers(1, 12),
    num_workers=st.integers(1, 6),
    num_shards=st.integers(1, 4),
    num_bits=st.integers(1, 8),
    zeros=st.booleans(),
    combine=st.sampled_from([VOTE, MEAN]),
    carries_magnitudes=st.booleans(),
)
def test_chunks_make_up_the_vector_and_its_bytes(
    sizes, num_chunks, num_workers, num_shards, num_bits, zeros, combine, carries_magnitudes
):
    layout = FlatLayout(sizes)
    ballots = ballot_alphabet(num_bits, zeros)
    results = combine.alphabet(ballots, num_workers)
    exchange = Spy(num_workers, num_shards)
    chunks = cut(layout, num_chunks, exchange, (ballots, results), HEADER_BYTES, carries_magnitudes)
    assert 1 <= len(chunks) <= num_chunks
    assert chunks[0].span.start == 0
    assert chunks[-1].span.end == layout.numel
    for one, next_ in itertools.pairwise(chunks):
        assert one.span.end == next_.span.start
    assert [index for chunk in chunks for index in chunk.ending] == list(range(len(sizes)))
    for chunk in chunks:
        assert chunk.layout.numel == chunk.span.numel == sum(one.numel for one in chunk.shards)
        for index, own in zip(chunk.parameters, chunk.layout.spans, strict=True):
            assert own.numel == layout.spans[index].within(chunk.span).numel
        for index in chunk.ending:
            assert chunk.span.start <= layout.spans[index].end <= chunk.span.end
    extra_bytes = MAGNITUDE_BYTES * len(sizes) if carries_magnitudes else 0
    whole = WireFormat(layout.numel, ballots, HEADER_BYTES + extra_bytes)
    for shards in (num_shards, num_workers):
        sent = sum(chunk.format.ballot.size_bytes(shards) for chunk in chunks)
        assert sent == whole.size_bytes(shards)
        collected = sum(chunk.format.result.size_bytes(shards) for chunk in chunks)
        assert collected == WireFormat(layout.numel, results).size_bytes(shards)


@pytest.mark.parametrize(
    ("optimizer", "choices"),
    [
        (compsgd.CompressedSGDVote, {"momentum": 0.9, "error_feedback": True}),
        (compsgd.CompressedSGDVote, {"rand_zero": False, "binning": "exp"}),
        (compsgd.CompressedSGD, {"num_bits": 2}),
        (compsgd.SignSGD, {"min_compress_numel": 6000}),
    ],
)
def test_a_round_does_not_depend_on_its_chunks(optimizer, choices):
    def found(num_chunks):
        kept = three_rounds("off", optimizer, 1, 5 * UNIT + 77, num_chunks=num_chunks, **choices)
        return [one for one in kept if torch.is_tensor(one) and one.dtype != torch.uint8]

    whole = found(1)
    assert len(whole) > 2
    for num_chunks in (2, 6):
        for one, other in zip(found(num_chunks), whole, strict=True):
            assert torch.equal(one, other)


def aggregator(num_chunks, exchange, layout, carries_magnitudes=False):
    choices = VoteSettings(num_chunks=num_chunks, compile="off", momentum=0.9)
    device = torch.device("cpu")
    encoders = [WorkerEncoder.fresh(layout.numel, device, choices) for _ in exchange.hosted]
    work = Work(ballot_alphabet(3, zeros=False), "lin", VOTE, "cpu")
    return LevelAggregator(
        layout, encoders, work, exchange, choices, device, carries_magnitudes=carries_magnitudes
    )


def gradient(layout, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parameters = [torch.zeros(span.numel) for span in layout.spans]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return gather(parameters, layout, torch.device("cpu"))


class Diary(InProcessExchange):
    """Writes down what is done in which order."""

    num_shards = 2

    def __init__(self):
        super().__init__(1)
        self.entries = []

    def distribute(self, ballots, format):
        return self._begun("ballot", super().distribute(ballots, format))

    def collect(self, result, format):
        return self._begun("result", lambda: result.expand(self.num_shards, -1))

    def _begun(self, what, wait):
        number = sum(entry.startswith(f"{what} sent") for entry in self.entries)
        self.entries.append(f"{what} sent {number}")

        def arrival():
            self.entries.append(f"{what} here {number}")
            return wait()

        return arrival


def test_one_is_coded_while_others_travel(monkeypatch):
    layout = FlatLayout([2 * UNIT, UNIT])
    exchange = Diary()
    one = aggregator(3, exchange, layout)
    for owner, name in ((LevelAggregator, "_encode"), (BallotTally, "count")):
        original = getattr(owner, name)

        def noted(self, *args, name=name, original=original):
            exchange.entries.append(name)
            original(self, *args)

        monkeypatch.setattr(owner, name, noted)
    outcome = one.aggregate(0, gradient(layout))
    sent = [entry for number in range(3) for entry in ("_encode", f"ballot sent {number}")]
    counted = [
        entry
        for number in range(3)
        for entry in (f"ballot here {number}", "count", f"result sent {number}")
    ]
    assert exchange.entries == sent + counted
    exchange.entries.clear()
    for number, span in enumerate(outcome.arrivals()):
        assert exchange.entries.pop() == f"result here {number}"
        assert span == one.chunks[number].span
    # They are there: nobody waits again.
    outcome.complete()
    assert list(outcome.arrivals()) == [chunk.span for chunk in one.chunks]
    assert exchange.entries == []


def test_magnitudes_travel_with_the_end_of_their_parameter():
    layout = FlatLayout([UNIT // 2, 2 * UNIT, 0, UNIT, 5])
    gradients = [gradient(layout, seed) for seed in range(3)]
    found = []
    for num_chunks in (1, 4):
        one = aggregator(num_chunks, InProcessExchange(3), layout, carries_magnitudes=True)
        for slot, its_gradient in enumerate(gradients):
            one.compress(slot, its_gradient, 0)
        outcome = one.aggregate(0)
        medians = [
            one.median_magnitudes(outcome, number) for number, _ in enumerate(outcome.arrivals())
        ]
        found.append(torch.cat(medians))
    assert len(one.chunks) == 4
    assert torch.equal(*found)
    expected = sorted(0.1 * its.parts[1].values.abs().mean().item() for its in gradients)[1]
    assert found[0][1].item() == pytest.approx(expected, rel=1e-4)


def test_what_is_pending_fits_other_chunks():
    layout = FlatLayout([UNIT, UNIT])
    one, other = (aggregator(number, InProcessExchange(1), layout) for number in (1, 4))
    one.compress(0, gradient(layout), 0)
    other.restore(one.pending(), 0)
    outcomes = [one.aggregate(0), other.aggregate(0)]
    for outcome in outcomes:
        outcome.complete()
    assert torch.equal(outcomes[0].result, outcomes[1].result)


def test_a_worker_that_sits_out_leaves_nothing_behind():
    """In no chunk of the round after one in which it voted."""
    layout = FlatLayout([2 * UNIT])
    one = aggregator(2, InProcessExchange(2), layout)
    for slot in range(2):
        one.compress(slot, gradient(layout, slot), 0)
    one.aggregate(0).complete()
    one.compress(0, gradient(layout), 1)
    outcome = one.aggregate(1)
    outcome.complete()
    received = outcome.received
    assert len(received) == 2
    assert not any(
        payload(rows, chunk)[1].any() for chunk, rows in zip(one.chunks, received, strict=True)
    )


def test_as_many_chunks_as_pay():
    assert best_num_chunks(11_700_000, 0.0) == 1
    assert best_num_chunks(11_700_000, 0.035) == 4
    assert best_num_chunks(11_700_000, 100.0) == best_num_chunks(11_700_000, 1e9) == 5
    assert best_num_chunks(200_000, 100.0) == 1
    assert best_num_chunks(10**9, 100.0) == 16

"""A round against its parts, called by hand: encoder, codec.pack, codec.count, codec.decode."""

import pytest
import torch
from rounds import Spy

from compsgd import DamagedDataError, InProcessExchange, PeerError, SettingError, VoteSettings
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.base import CodecSpec
from compsgd.codec.blocks import shard_size
from compsgd.codec.combine import MEAN, VOTE
from compsgd.codec.compiling import Work
from compsgd.codec.registry import codec_for
from compsgd.gradient import gather
from compsgd.layout import FlatLayout, Span, Voters, shard_span, voters_within
from compsgd.rng import BREAK_TIE, BREAK_ZERO, BitStream, derive_key
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.ballot import header_num_bytes
from compsgd.voting.encoder import WorkerEncoder
from compsgd.voting.tally import payload

CPU = torch.device("cpu")
SIZES = [500, 1600]
LAYOUT = FlatLayout(SIZES)
NUM_WORKERS = 3
SEED, FIRST = 7, 1234


def gradients_of(round_, absent=()):
    """By worker; the workers in `absent` have none for the first parameter."""
    generator = torch.Generator().manual_seed(round_)
    gradients = []
    for worker in range(NUM_WORKERS):
        parameters = [torch.zeros(size) for size in SIZES]
        for parameter in parameters:
            values = torch.randn(parameter.shape, generator=generator)
            parameter.grad = values * (values.abs() > 0.3)
        if worker in absent:
            parameters[0].grad = None
        gradients.append(gather(parameters, LAYOUT, CPU))
    return gradients


class Setting:
    """What the aggregator and the manual chain have in common."""

    def __init__(self, num_bits=3, zeros=False, combine=VOTE, compile="off"):
        self.settings = VoteSettings(
            num_bits=num_bits, rand_zero=not zeros, seed=SEED, compile=compile, decay_max=0.9
        )
        self.alphabet = ballot_alphabet(num_bits, zeros)
        self.combine = combine
        self.work = Work(self.alphabet, "lin", combine, "cpu")

    def encoders(self):
        return [WorkerEncoder.fresh(LAYOUT.numel, CPU, self.settings) for _ in range(NUM_WORKERS)]

    def aggregator(self, exchange=None, **more):
        exchange = exchange or InProcessExchange(NUM_WORKERS)
        return LevelAggregator(
            LAYOUT, self.encoders(), self.work, exchange, self.settings, CPU, first=FIRST, **more
        )

    def codec(self, alphabet):
        return codec_for(CodecSpec(alphabet, "lin", "cpu", self.settings.compile, False))

    def bits(self, purpose, *counters):
        if self.alphabet.zeros:
            return None
        return BitStream(derive_key(SEED, purpose, *counters), FIRST)


class ManualChain:
    """Rounds from the parts alone, of shard 0 of so many."""

    def __init__(self, setting, num_shards):
        self.setting = setting
        self.encoders = setting.encoders()
        self.shards = [shard_span(LAYOUT.numel, num_shards, i) for i in range(num_shards)]
        self.results = setting.combine.alphabet(setting.alphabet, NUM_WORKERS)

    def ballots(self, gradients, round_):
        """uint8, shape (workers, shards, num_bytes)."""
        codec = self.setting.codec(self.setting.alphabet)
        size = shard_size(self.shards[0].numel, self.setting.alphabet)
        packed = torch.zeros(NUM_WORKERS, len(self.shards), size, dtype=torch.uint8)
        for worker, gradient in enumerate(gradients):
            codes = torch.zeros(LAYOUT.numel, dtype=self.setting.alphabet.code_dtype)
            bits = self.setting.bits(BREAK_ZERO, round_, worker)
            self.encoders[worker].encode(codes, gradient, bits, codec)
            for span in gradient.absent_spans():
                codes[span.slice] = 0
            for row, shard in zip(packed[worker], self.shards, strict=True):
                codec.pack(row, codes[shard.slice])
        return packed

    def result(self, ballots, voters, round_):
        """The codes of the results of shard 0."""
        codes = torch.zeros(self.shards[0].numel, dtype=self.results.code_dtype)
        ties = self.setting.bits(BREAK_TIE, round_) if self.setting.combine.breaks_ties else None
        here = voters_within(voters, self.shards[0])
        codec = self.setting.codec(self.setting.alphabet)
        codec.count(codes, ballots[:, 0].contiguous(), here, self.setting.combine, ties)
        return codes

    def update(self, codes, voters):
        """Float32 of all shards, which all have what shard 0 has."""
        everyones = codes.repeat(len(self.shards))
        levels = torch.empty(LAYOUT.numel)
        self.setting.codec(self.results).decode(levels, everyones)
        for span, workers in voters:
            levels[span.slice] = self.setting.combine.update(levels[span.slice], len(workers))
        return levels


def voters_with(absent):
    everybody = tuple(range(NUM_WORKERS))
    some = tuple(worker for worker in everybody if worker not in absent)
    if some == everybody:
        return [Voters(Span(0, LAYOUT.numel), everybody)]
    return [
        Voters(span, workers) for span, workers in zip(LAYOUT.spans, (some, everybody), strict=True)
    ]


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("combine", [VOTE, MEAN], ids=["vote", "mean"])
@pytest.mark.parametrize(
    ("num_bits", "zeros", "compile"),
    [(3, False, "off"), (3, False, "native"), (3, True, "off"), (1, False, "native")],
)
def test_a_round_is_its_parts(num_bits, zeros, compile, combine, num_shards):
    setting = Setting(num_bits, zeros, combine, compile)
    exchange = Spy(NUM_WORKERS, num_shards)
    aggregator = setting.aggregator(exchange)
    chain = ManualChain(setting, num_shards)
    for round_, absent in enumerate([(), (1,), ()]):
        for slot, gradient in enumerate(gradients_of(round_, absent)):
            aggregator.compress(slot, gradient, round_)
        exchange.sent.clear()
        outcome = aggregator.aggregate(round_)
        outcome.complete()
        ballots = chain.ballots(gradients_of(round_, absent), round_)
        header_bytes = header_num_bytes(len(SIZES))
        assert torch.equal(exchange.sent[0][:, :, header_bytes:], ballots)
        voters = voters_with(absent)
        assert outcome.voters == voters
        codes = chain.result(ballots, voters, round_)
        assert torch.equal(outcome.result, codes.repeat(num_shards))
        assert len(exchange.sent) == (1 if num_shards == 1 else 2)
        expected = chain.update(codes, voters)
        seen = 0
        for span, update in aggregator.updates(outcome):
            assert torch.equal(update, expected[span.slice])
            seen += span.numel
        assert seen == LAYOUT.numel
    for ours, theirs in zip(aggregator._encoders, chain.encoders, strict=True):
        assert torch.equal(ours.state["max"], theirs.state["max"])


def test_results_that_travel_are_packed_in_their_own_alphabet():
    for combine, symbols in ((VOTE, 8), (MEAN, 2 * NUM_WORKERS * 4 + 1)):
        exchange = Spy(NUM_WORKERS, 3)
        aggregator = Setting(combine=combine).aggregator(exchange)
        for slot, gradient in enumerate(gradients_of(0)):
            aggregator.compress(slot, gradient, 0)
        aggregator.aggregate(0)
        results = combine.alphabet(ballot_alphabet(3, zeros=False), NUM_WORKERS)
        assert results.symbols == symbols
        assert exchange.sent[1].numel() == shard_size(LAYOUT.numel // 3, results)


# Who takes part.


def test_an_outcome_says_who_took_part():
    aggregator = Setting().aggregator()
    gradients = gradients_of(0)
    gradients[1].parts[0].values[3] = float("nan")
    assert not aggregator.cast
    for slot in (0, 1):
        aggregator.compress(slot, gradients[slot], 0)
    assert list(aggregator.cast) == [0, 1]
    outcome = aggregator.aggregate(0)
    assert not aggregator.cast
    assert outcome.participants == (0,)
    assert [header.worker for header in outcome.headers] == [0, 1, 2]
    assert [header.non_finite for header in outcome.headers] == [None, 0, None]
    assert outcome.voters == [((0, LAYOUT.numel), (0,))]
    (received,) = outcome.received
    assert received.shape[0] == NUM_WORKERS
    assert not payload(received, aggregator.chunks[0])[1:].any()


def test_nobody_votes():
    aggregator = Setting().aggregator()
    outcome = aggregator.aggregate(0)
    assert outcome.participants == ()
    assert outcome.voters == []
    assert outcome.result is None
    assert list(aggregator.updates(outcome)) == []


def test_damaged_ballots_are_no_result():
    """Five packed bits of a ballot of 3 bits an element are padding, which is 0."""
    layout = FlatLayout([1])
    settings = VoteSettings(compile="off")
    encoders = [WorkerEncoder.fresh(1, CPU, settings)]
    work = Work(ballot_alphabet(3, zeros=False), "lin", VOTE, "cpu")
    one = LevelAggregator(layout, encoders, work, InProcessExchange(1), settings, CPU)
    parameter = torch.zeros(1)
    parameter.grad = torch.ones(1)
    one.compress(0, gather([parameter], layout, CPU), 0)
    one.box.payload(0, 0)[0, 0] |= 1 << 3
    with pytest.raises(DamagedDataError, match="padding"):
        one.aggregate(0).complete()


def test_a_ballot_of_another_round_does_not_belong():
    aggregator = Setting().aggregator()
    aggregator.compress(0, gradients_of(0)[0], 4)
    with pytest.raises(PeerError, match="round 4 instead of 5"):
        aggregator.aggregate(5)


# Saving in mid-round.


@pytest.mark.parametrize("slots", [(), (0,), (2, 0), (0, 1, 2)])
def test_what_is_pending_goes_on_elsewhere(slots):
    one, other = (Setting().aggregator() for _ in range(2))
    gradients = gradients_of(0)
    for slot in slots:
        one.compress(slot, gradients[slot], 0)
    pending = one.pending()
    assert set(pending) == {f"{name}.{slot}" for slot in slots for name in ("ballot", "codes")}
    assert set(pending) <= set(one.pending_kinds())
    expected = one.aggregate(0)
    other.restore(pending, 0)
    found = other.aggregate(0)
    assert found.participants == expected.participants == tuple(sorted(slots))
    assert torch.equal(found.received[0], expected.received[0])
    assert slots == () or torch.equal(found.result, expected.result)


def test_what_is_pending_is_a_copy():
    aggregator = Setting().aggregator()
    first, second = gradients_of(0)[:2]
    aggregator.compress(0, first, 0)
    pending = aggregator.pending()["codes.0"]
    before = pending.clone()
    aggregator.compress(0, second, 0)
    assert torch.equal(pending, before)
    assert not torch.equal(aggregator.pending()["codes.0"], before)


def test_restore_refuses_what_does_not_fit():
    one, other = Setting().aggregator(), Setting(num_bits=5).aggregator()
    one.compress(0, gradients_of(0)[0], 0)
    pending = one.pending()
    with pytest.raises(SettingError, match="ballot of worker 0 has another size"):
        other.restore(pending, 0)
    with pytest.raises(PeerError, match="round 0 instead of 1"):
        one.restore(pending, 1)
    with pytest.raises(SettingError, match="worker 5, which is not hosted here"):
        one.restore({"ballot.5": pending["ballot.0"], "codes.5": pending["codes.0"]}, 0)
    with pytest.raises(SettingError, match="lack headers or codes"):
        one.restore({"ballot.0": pending["ballot.0"]}, 0)
    damaged = pending["codes.0"].clone()
    damaged[-1] = 0xFF
    with pytest.raises(DamagedDataError, match=r"ballot of worker 0: .*padding"):
        one.restore(pending | {"codes.0": damaged}, 0)


# Magnitudes.


def test_headers_carry_median_magnitudes():
    aggregator = Setting().aggregator(carries_magnitudes=True)
    gradients = gradients_of(0, absent=(1,))
    for slot, gradient in enumerate(gradients):
        aggregator.compress(slot, gradient, 0)
    found = aggregator.median_magnitudes(aggregator.aggregate(0), 0)
    means = [[part.values.abs().mean() for part in gradient.parts] for gradient in gradients]
    # Of two the lower one.
    expected = torch.stack([min(means[0][0], means[2][0]), sorted(m[-1] for m in means)[1]])
    assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_magnitudes_that_cannot_be_are_damage(bad):
    aggregator = Setting().aggregator(carries_magnitudes=True)
    aggregator.compress(0, gradients_of(0)[0], 0)
    outcome = aggregator.aggregate(0)
    start = header_num_bytes(len(SIZES))
    outcome.received[0][0, start : start + 4] = torch.tensor([bad]).view(torch.uint8)
    with pytest.raises(DamagedDataError, match="worker 0 sends a mean magnitude"):
        aggregator.median_magnitudes(outcome, 0)

"""Registries: unknown names are told the known ones, and another entry is one line."""

import pytest
import torch
from command_line import run

import compsgd
from compsgd import SettingError, VoteSettings
from compsgd.codec import registry
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.base import CodecSpec
from compsgd.codec.binning import BINNINGS, Binning
from compsgd.codec.combine import COMBINES, Vote, combine_named
from compsgd.codec.compiling import COMPILE_CHOICES, Work
from compsgd.codec.registry import CODECS, codec_for
from compsgd.codec.torch_codec import torch_codec
from compsgd.comm import (
    Collectives,
    Ledger,
    Purpose,
    VoteState,
    build_exchange,
    exchange_choice,
    exchanges,
)
from compsgd.comm.traffic.cost import StepCost
from compsgd.gradient import gather
from compsgd.layout import FlatLayout
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.encoder import WorkerEncoder

CPU = torch.device("cpu")
KNOWN = {"binning": BINNINGS, "compile": COMPILE_CHOICES, "exchange": exchange_choice.EXCHANGES}


def collectives(num_workers=3):
    return Collectives(Ledger(), Purpose.GRADIENT, num_workers)


def refusal(name, known):
    return f"{name} is 'x'; it must be one of {', '.join(known)}"


def message_of(call):
    with pytest.raises(SettingError) as caught:
        call()
    return str(caught.value)


# Unknown names.


@pytest.mark.parametrize("name", ["binning", "compile"])
@pytest.mark.parametrize("client", [VoteSettings, VoteState, compsgd.VoteAggregator])
def test_unknown_names_are_told_the_known_ones(client, name):
    params = {} if client is VoteSettings else {"params": [torch.zeros(1, requires_grad=True)]}
    assert message_of(lambda: client(**params, **{name: "x"})) == refusal(name, KNOWN[name])


@pytest.mark.parametrize("client", [VoteState, compsgd.VoteAggregator])
def test_unknown_exchanges_are_told_the_known_ones(client):
    params = [torch.zeros(1, requires_grad=True)]
    found = message_of(lambda: client(params=params, exchange="x"))
    assert found == refusal("exchange", exchange_choice.EXCHANGES)
    assert message_of(lambda: build_exchange("x", collectives())) == found


def test_unknown_combines_are_told_the_known_ones():
    assert message_of(lambda: combine_named("x")) == refusal("combine", COMBINES)
    cost = StepCost(10, 1, num_bits=3, zeros=False, combine="x")
    assert message_of(lambda: cost.scatter_reduce(4)) == refusal("combine", COMBINES)


@pytest.mark.parametrize("name", KNOWN)
def test_the_command_refuses_unknown_names(name, tmp_path):
    result = run(f"--{name}", "x", cwd=tmp_path)
    assert result.exit_code == 2
    for known in KNOWN[name]:
        assert f"'{known}'" in result.output
    assert list(tmp_path.iterdir()) == []


# Another entry.


@pytest.fixture
def fresh_codecs():
    codec_for.cache_clear()
    yield
    codec_for.cache_clear()


def square_share(magnitude, bound):
    return (magnitude / (bound + (1 - bound.sign()))).square()


@pytest.mark.parametrize("compile", ["off", "native", "auto"])
def test_a_third_binning(compile, monkeypatch, fresh_codecs):
    binning = Binning(square_share, lambda share, bound: share.sqrt() * bound)
    monkeypatch.setitem(BINNINGS, "square", binning)
    assert VoteSettings(binning="square").binning == "square"
    weights = torch.zeros(4)
    optimizer = compsgd.CompressedSGDVote(
        [weights], 1.0, num_bits=3, binning="square", compile=compile
    )
    weights.grad = torch.full((4,), 1.0)
    optimizer.step()
    weights.zero_()
    weights.grad = torch.tensor([1.0, 0.75, 0.5, 0.25])
    optimizer.step()
    # 4 x 1, 0.5625, 0.25 and 0.0625, rounded up; "lin" has 4, 3, 2, 1.
    assert weights.tolist() == [-4, -3, -1, -1]
    optimizer.load_state_dict(optimizer.state_dict())
    fed = compsgd.CompressedSGDVote(
        [weights], 1.0, binning="square", compile=compile, error_feedback=True
    )
    fed.step()
    # Its own bound is what the first gradient stands for.
    assert fed.state[weights]["error.0"].tolist() == [0.0] * 4
    lin = compsgd.CompressedSGDVote([torch.zeros(4)], 1.0)
    with pytest.raises(SettingError, match="binning='square'; here it is 'lin'"):
        lin.load_state_dict(optimizer.state_dict())


def test_a_third_exchange(monkeypatch):
    class Third(exchanges.AllGatherExchange):
        """Counts its calls."""

        calls = 0

        def distribute(self, ballots, format):
            self.calls += 1
            return super().distribute(ballots, format)

    assert list(exchange_choice.EXCHANGES) == ["auto", *exchange_choice.KINDS]
    monkeypatch.setitem(exchange_choice.KINDS, "third", Third)
    # Made of KINDS when the module is loaded.
    monkeypatch.setattr(exchange_choice, "EXCHANGES", ("auto", *exchange_choice.KINDS))
    exchange = build_exchange("third", collectives(num_workers=1))
    weights = torch.zeros(2)
    optimizer = compsgd.SignSGD([weights], 0.5, exchange=exchange)
    weights.grad = torch.tensor([1.0, -1.0])
    optimizer.step()
    assert weights.tolist() == [-0.5, 0.5]
    assert exchange.calls == 1
    weights.requires_grad_()
    assert compsgd.VoteAggregator([weights], exchange="third").settings.exchange == "third"


class Extreme(Vote):
    """The largest level, with the sign of the sum."""

    def result(self, level_sum, num_voters):
        return 4 * level_sum.sign()


class PlainExtreme:
    """The same without a base."""

    breaks_ties = True

    def alphabet(self, ballots, num_workers):
        return ballots

    result = Extreme.result

    def update(self, results, num_voters):
        return results


@pytest.mark.parametrize("combine", [Extreme(), PlainExtreme()], ids=["derived", "plain"])
@pytest.mark.parametrize("compile", ["off", "native"])
def test_a_third_combine(combine, compile, monkeypatch, fresh_codecs):
    monkeypatch.setitem(COMBINES, "extreme", combine)
    settings = VoteSettings(compile=compile)
    layout, exchange = FlatLayout([5]), compsgd.InProcessExchange(3)
    encoders = [WorkerEncoder.fresh(5, CPU, settings) for _ in exchange.hosted]
    work = Work(ballot_alphabet(3, zeros=False), "lin", combine_named("extreme"), "cpu")
    aggregator = LevelAggregator(layout, encoders, work, exchange, settings, CPU)
    values = [1.0, 1.0, 1.0, -1.0, -1.0]
    for round_, share in enumerate((1.0, 0.5)):
        for slot in exchange.hosted:
            parameter = torch.zeros(5)
            parameter.grad = share * torch.tensor(values)
            aggregator.compress(slot, gather([parameter], layout, CPU), round_)
        outcome = aggregator.aggregate(round_)
        ((span, update),) = aggregator.updates(outcome)
        assert span == (0, 5)
        # A vote has level 2 in the second round, where all are at half of their range.
        assert update.tolist() == [4, 4, 4, -4, -4]
    assert StepCost(10, 1, 3, zeros=False, combine="extreme").scatter_reduce(4) > 0


def test_another_codec_is_used(monkeypatch, fresh_codecs):
    asked = []

    def third_codec(spec):
        asked.append(spec)
        return torch_codec(spec) if spec.binning == "exp" else None

    monkeypatch.setattr(registry, "CODECS", [third_codec, *CODECS])
    alphabet = ballot_alphabet(3, zeros=False)
    specs = [CodecSpec(alphabet, binning, "cpu", "native", False) for binning in ("exp", "lin")]
    names = [type(codec_for(spec)).__name__ for spec in specs]
    assert names == ["TorchCodec", "NumbaCodec"]
    assert asked == specs
    compsgd.CompressedSGDVote([torch.zeros(3)], 0.1, binning="exp", num_bits=5)
    assert {(spec.binning, spec.alphabet.largest) for spec in asked[2:]} == {("exp", 16)}


def test_a_codec_is_shared(fresh_codecs):
    spec = CodecSpec(ballot_alphabet(3, zeros=True), "lin", "cpu", "off", False)
    assert codec_for(spec) is codec_for(spec)


def test_who_does_what():
    """Numba for powers of 2 of levels on a CPU, if it may; torch for everything."""

    def name_of(zeros=False, device_type="cpu", compile="native"):
        spec = CodecSpec(ballot_alphabet(3, zeros), "lin", device_type, compile, False)
        return type(codec_for(spec)).__name__

    assert name_of() == "NumbaCodec"
    assert {name_of(zeros=True), name_of(compile="off"), name_of(device_type="meta")} == {
        "TorchCodec"
    }

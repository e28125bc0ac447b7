"""Processes that are no longer the same are found, and what differs is named."""

import contextlib

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from silence import heard
from tiny_training import SETTINGS, loss_of, model

import compsgd
from compsgd import DamagedDataError, PeerError, VoteAggregator
from compsgd.comm import Purpose, exchanges, register_vote_hook
from compsgd.errors import CompsgdError
from compsgd.voting.replicas import digest, digest_of_text, is_due
from compsgd.voting.tally import BallotTally

pytestmark = pytest.mark.heavy

OPTIMIZERS = [
    compsgd.SGD,
    compsgd.AdamW,
    compsgd.SignSGD,
    compsgd.CompressedSGD,
    compsgd.CompressedSGDVote,
]
WAYS = ["all_gather", "scatter_reduce"]


def name_of(optimizer):
    return optimizer.__name__


def test_when_it_is_due():
    assert [round_ for round_ in range(-3, 10) if is_due(round_, 3)] == [-1, 2, 5, 8]
    assert not any(is_due(round_, 0) for round_ in range(10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_a_digest_is_of_all_bytes(dtype):
    one = torch.arange(24, dtype=torch.float32).to(dtype).view(4, 6)
    other = one.clone()
    assert digest([one]) == digest([other]) == digest([one.t().contiguous().t()])
    other[3, 5] += 1
    assert digest([one]) != digest([other])
    assert digest([one, other]) != digest([other, one])
    assert digest([]) == digest([torch.empty(0)])
    assert digest_of_text("a") != digest_of_text("b")


class Tampered:
    """Alters what one rank receives, from some call on."""

    def __init__(self, monkeypatch, kind, method, rank, alter, first_call=0):
        original, self.calls = getattr(kind, method), 0

        def tampered(exchange, *args):
            arrival = original(exchange, *args)
            self.calls += 1
            if dist.get_rank() == rank and self.calls > first_call:
                return lambda: alter(arrival().clone())
            return arrival

        monkeypatch.setattr(kind, method, tampered)


def turn_round(rows):
    """Some levels, of worker 0 or of the results of rank 0: each becomes another one far away."""
    rows[0, 40:60] ^= 255
    return rows


def optimizer_of(net, make=compsgd.CompressedSGDVote, **settings):
    return make(net.parameters(), 0.01, process_group=dist.group.WORLD, **settings)


def train(net, optimizer, num_steps):
    for step in range(num_steps):
        optimizer.zero_grad()
        loss_of(net, dist.get_rank(), step).backward()
        optimizer.step()


def trained(num_steps, **settings):
    net = model()
    optimizer = optimizer_of(net, **settings)
    train(net, optimizer, num_steps)
    return net, optimizer


@contextlib.contextmanager
def tampering(kind, method, rank, alter, first_call=0):
    with pytest.MonkeyPatch.context() as patch:
        Tampered(patch, kind, method, rank, alter, first_call)
        yield


KIND_OF = {
    "all_gather": (exchanges.AllGatherExchange, "distribute"),
    "scatter_reduce": (exchanges.ScatterReduceExchange, "collect"),
}
NAMED = {"all_gather": "the ballots of round 2", "scatter_reduce": "the result of round 2"}


@pytest.mark.parametrize("way", WAYS)
@on_ranks(3)
def test_who_is_sent_something_else_is_found(way):
    """A rank that equivocates: one of the others gets another ballot, or another result."""
    with (
        tampering(*KIND_OF[way], rank=2, alter=turn_round),
        pytest.raises(PeerError, match=f"disagree on {NAMED[way]}: .* on ranks 0, 1; .* on rank 2"),
    ):
        trained(3, exchange=way, check_every=3, num_bits=8)


@pytest.mark.parametrize("way", WAYS)
@on_ranks(3)
def test_what_happened_in_between_is_found(way):
    """Other weights since a round that nobody compared."""
    net, optimizer = trained(1, exchange=way, check_every=3, num_bits=8)
    with tampering(*KIND_OF[way], rank=0, alter=turn_round):
        train(net, optimizer, 1)
    with pytest.raises(PeerError, match=r"disagree on the weights after round 2: .* on rank 0;"):
        train(net, optimizer, 1)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=name_of)
@on_ranks(2)
def test_every_optimizer_compares_its_weights(make):
    net = model()
    optimizer = optimizer_of(net, make, check_every=2)
    train(net, optimizer, 1)
    if dist.get_rank() == 1:
        with torch.no_grad():
            net[0].weight[0] += 1e-3
    with pytest.raises(PeerError, match="disagree on the weights after round 1"):
        train(net, optimizer, 1)


@on_ranks(2)
def test_who_does_not_ask_is_not_told():
    with tampering(*KIND_OF["all_gather"], rank=1, alter=turn_round):
        _, optimizer = trained(3, exchange="all_gather", check_every=0, num_bits=8)
    ledger = optimizer.exchange.ledger
    before = ledger.wire[Purpose.BOOKKEEPING].sent_bytes
    assert 0 < before < 2000, "what is compared at the start"
    train(model(), optimizer, 1)
    assert ledger.wire[Purpose.BOOKKEEPING].sent_bytes == before


@on_ranks(2)
def test_comparing_moves_nothing():
    checked, optimizer = trained(3, check_every=1)
    unchecked, other = trained(3, check_every=0)
    assert digest(checked.parameters()) == digest(unchecked.parameters())
    steps, same_steps = optimizer.exchange.ledger.steps, other.exchange.ledger.steps
    assert [one.wire for one in steps] == [one.wire for one in same_steps]


# Counting again.


def lie(monkeypatch, rank):
    """A rank's results are others than its shard of the ballots comes to, the same to all."""
    original = BallotTally.send_results

    def send_results(tally, chunk, codes):
        if dist.get_rank() == rank:
            codes[tally.shard(chunk).slice][7] ^= 1
        return original(tally, chunk, codes)

    monkeypatch.setattr(BallotTally, "send_results", send_results)


@pytest.mark.parametrize(
    "make", [compsgd.SignSGD, compsgd.CompressedSGD, compsgd.CompressedSGDVote]
)
@on_ranks(3)
def test_a_lie_about_a_shard_is_found_by_a_recount(make):
    with pytest.MonkeyPatch.context() as patch:
        lie(patch, rank=1)
        with pytest.raises(PeerError, match=r"the results of rank 1 in round 0 are not what the"):
            trained(1, make=make, exchange="scatter_reduce", verify_fraction=1.0)
        trained(1, make=make, exchange="scatter_reduce", check_every=1)


@on_ranks(2)
def test_a_lie_to_the_hook_is_found_by_a_recount():
    with pytest.MonkeyPatch.context() as patch:
        lie(patch, rank=1)
        hooked = torch.nn.parallel.DistributedDataParallel(model())
        register_vote_hook(hooked, exchange="scatter_reduce", verify_fraction=1.0, **SETTINGS)
        with pytest.raises(RuntimeError, match="PeerError: the results of rank 1 in round 0"):
            loss_of(hooked, dist.get_rank(), 0).backward()


@on_ranks(2, 4)
def test_recounts_change_nothing_and_are_entered():
    usual, optimizer = trained(4, exchange="scatter_reduce", min_compress_numel=70)
    for fraction, is_every in ((1.0, True), (1e-9, False)):
        checked, other = trained(
            4, exchange="scatter_reduce", verify_fraction=fraction, min_compress_numel=70
        )
        assert digest(checked.parameters()) == digest(usual.parameters())
        logical, wire = (
            [getattr(step, kind).sent_bytes for step in other.exchange.ledger.steps]
            for kind in ("logical", "wire")
        )
        unverified = [step.wire.sent_bytes for step in optimizer.exchange.ledger.steps]
        assert logical == [step.logical.sent_bytes for step in optimizer.exchange.ledger.steps]
        assert [now > then for now, then in zip(wire, unverified, strict=True)] == [is_every] * 4


# Before anything is exchanged.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("differs", "named"),
    [
        ({"num_bits": (3, 4)}, "num_bits: 3 on rank 0; 4 on rank 1"),
        ({"momentum": (0.0, 0.9)}, "momentum: 0.0 on rank 0; 0.9 on rank 1"),
        ({"size": (10, 11)}, "the shapes and types of the parameters"),
        ({"value": (0.0, 1.0)}, "the values of the parameters"),
        ({"make": (0, 1)}, "the optimizer: CompressedSGDVote on rank 0; SignSGD on rank 1"),
    ],
)
@on_ranks(2)
def test_optimizers_that_differ_are_found_before_the_first_exchange(way, differs, named):
    own = {name: values[dist.get_rank()] for name, values in differs.items()}
    weights = torch.full((own.pop("size", 10),), own.pop("value", 0.0))
    make = (compsgd.CompressedSGDVote, compsgd.SignSGD)[own.pop("make", 0)]
    optimizer = make([weights], 0.1, process_group=dist.group.WORLD, exchange=way, **own)
    weights.grad = torch.ones_like(weights)
    with pytest.raises(PeerError, match=f"the processes disagree on {named}"):
        optimizer.step()
    assert not optimizer.exchange.ledger.wire[Purpose.GRADIENT].sent_bytes


@on_ranks(2)
def test_an_aggregator_over_other_weights_is_found():
    weights = torch.full((4,), float(dist.get_rank()), requires_grad=True)
    weights.grad = torch.ones(4)
    with pytest.raises(PeerError, match="disagree on the values of the parameters"):
        VoteAggregator([weights]).aggregate()


# The hook.


@on_ranks(2)
def test_the_hook_compares_weights_and_votes():
    hooked = torch.nn.parallel.DistributedDataParallel(model(), bucket_cap_mb=0.01)
    register_vote_hook(hooked, check_every=2, exempt_1d=True, **SETTINGS)
    sgd = torch.optim.SGD(hooked.parameters(), 0.01)
    for step in range(4):
        sgd.zero_grad()
        if step == 3:
            break
        loss_of(hooked, dist.get_rank(), step).backward()
        sgd.step()
    if dist.get_rank() == 1:
        with torch.no_grad():
            hooked.module[0].weight[0] += 1e-3
    with pytest.raises(
        RuntimeError, match="PeerError: the processes disagree on the weights before"
    ):
        loss_of(hooked, dist.get_rank(), 3).backward()


@on_ranks(2)
def test_the_hook_compares_what_it_receives():
    hooked = torch.nn.parallel.DistributedDataParallel(model(), bucket_cap_mb=0.01)
    register_vote_hook(hooked, check_every=1, exchange="all_gather", **SETTINGS | {"num_bits": 8})
    with (
        tampering(*KIND_OF["all_gather"], rank=1, alter=turn_round),
        pytest.raises(RuntimeError, match="PeerError: the processes disagree on the ballots of"),
    ):
        loss_of(hooked, dist.get_rank(), 0).backward()


# Who it was.


def step_with_damage(way, numel, place, value):
    """A round in which a byte of what comes from process 1 arrives as another one."""

    def damage(rows):
        rows[1, place] = value
        return rows

    weights = torch.zeros(numel)
    optimizer = compsgd.CompressedSGDVote(
        [weights], 0.1, process_group=dist.group.WORLD, exchange=way
    )
    weights.grad = torch.ones(numel)
    with tampering(*KIND_OF[way], dist.get_rank(), damage):
        optimizer.step()


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, 0, "which is no ballot header"),
        (8, 9, "worker 9 instead of 1"),
        (27, 255, "padding that is not zero"),
        (-1, 255, "packed levels end in padding"),
    ],
)
@on_ranks(2)
def test_a_damaged_ballot_names_its_worker(place, value, said):
    with pytest.raises(CompsgdError, match=f"^the ballot of worker 1: .*{said}"):
        step_with_damage("all_gather", 11, place, value)


@on_ranks(2)
def test_a_damaged_result_names_its_rank():
    with pytest.raises(DamagedDataError, match=r"^the results of rank 1: packed levels end in"):
        step_with_damage("scatter_reduce", 22, -1, 255)


# Who did not compress.


def test_who_does_not_compress_is_told_once():
    weights = torch.zeros(3)
    optimizer = compsgd.CompressedSGDVote([weights], 0.1, num_workers=4)
    with heard() as messages:
        for _ in range(2):
            weights.grad = torch.ones(3)
            for worker in (0, 2):
                optimizer.compress(worker)
            optimizer.step()
    (message,) = messages
    assert message.startswith("step: workers 1, 3 did not compress, and sit out (reported once)")


def test_who_compresses_nothing_is_not_told_of():
    weights = torch.zeros(3)
    optimizer = compsgd.SGD([weights], 0.1, num_workers=2)
    weights.grad = torch.ones(3)
    optimizer.compress(0)
    weights.grad = None
    optimizer.compress(1)
    with heard() as messages:
        optimizer.step()
    assert not messages
    assert optimizer.participants == (0,)

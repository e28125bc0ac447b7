"""Hosts with several processes: the same weights as with every other exchange, and fewer bytes
between hosts."""

import contextlib

import pytest
import torch
import torch.distributed as dist
import wide_training
from matrix import cases, run_case
from ranks import on_ranks
from silence import silent_log
from torch.nn.parallel import DistributedDataParallel
from wide_training import train

import compsgd
from compsgd.comm import (
    Collectives,
    HierarchicalExchange,
    Ledger,
    Purpose,
    ScatterReduceExchange,
    build_exchange,
    register_vote_hook,
)
from compsgd.comm.traffic.cost import StepCost
from compsgd.errors import PeerError, SettingError

pytestmark = pytest.mark.heavy
WIDTH, HEIGHT = 700, 701


def exchange_of(num_workers, per_host):
    collectives = Collectives(Ledger(), Purpose.GRADIENT, num_workers, dist.group.WORLD)
    with told(per_host):
        return build_exchange("hierarchical", collectives)


@contextlib.contextmanager
def told(per_host):
    """As by a launcher: so many processes share a host."""
    variables = {
        "RANK": dist.get_rank(),
        "WORLD_SIZE": dist.get_world_size(),
        "LOCAL_WORLD_SIZE": per_host,
        "LOCAL_RANK": dist.get_rank() % per_host,
        "MASTER_ADDR": "nowhere",
        "MASTER_PORT": 1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, str(value))
        yield


@on_ranks(4)
def test_every_optimizer_with_workers_that_sit_out():
    with silent_log():
        for case in cases():
            if case[:2] == (8, "scatter_reduce") and case[2] not in ("sgd", "adamw"):
                alone = run_case(case, compsgd.InProcessExchange(case[0]))
                assert run_case(case, exchange_of(case[0], 2)) == alone, case


def model():
    return wide_training.model(WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "choices",
    [{"momentum": 0.9, "error_feedback": True}, {"rand_zero": False, "exempt_1d": True}],
)
@on_ranks(6)
def test_hosts_of_two_and_of_three_and_any_number_of_chunks(choices):
    found = {}
    for per_host in (1, 2, 3):
        for num_chunks in (1, 4):
            net = model()
            exchange = exchange_of(6, per_host)
            optimizer = compsgd.CompressedSGDVote(
                net.parameters(), 0.01, exchange=exchange, num_chunks=num_chunks, check_every=2,
                compile="off", **choices,
            )  # fmt: skip
            weights = train(net, optimizer, 2)
            assert (len(optimizer.aggregator.chunks) > 1) == (num_chunks > 1)
            step = exchange.ledger.steps[-1]
            assert step.wire == step.logical
            found[per_host, num_chunks] = weights, step.wire.sent_bytes
    (first, _), *_ = found.values()
    for (per_host, _), (weights, sent_bytes) in found.items():
        assert all(map(torch.equal, weights, first))
        assert sent_bytes == found[per_host, 1][1]


@on_ranks(4)
def test_bytes_are_those_that_are_predicted_and_those_between_hosts_few():
    net, exchange = model(), exchange_of(4, 2)
    assert isinstance(exchange, HierarchicalExchange)
    optimizer = compsgd.CompressedSGDVote(net.parameters(), 0.01, exchange=exchange)
    train(net, optimizer, 1)
    numel = sum(one.numel() for one in net.parameters())
    inside, between = StepCost(numel, 4, 3, zeros=False).hierarchical(4, 2)
    assert exchange.ledger.steps[0].wire.sent_bytes == inside + between
    transfers = exchange.ledger.steps[0].transfers
    assert sum(one.wire.sent_bytes for one in transfers[1:3]) == between
    # To two of three others otherwise.
    flat = StepCost(numel, 4, 3, zeros=False).scatter_reduce(4) * 2 / 3
    assert between < 0.65 * flat


@on_ranks(4)
def test_the_hook_and_the_aggregator():
    found = []
    for name in ("scatter_reduce", "hierarchical"):
        with told(2):
            net = DistributedDataParallel(model())
            register_vote_hook(
                net, scale="mean_abs", momentum=0.9, exempt_1d=True, exchange=name, check_every=2
            )
            weights = train(net, torch.optim.AdamW(net.parameters(), 0.01, betas=(0.0, 0.99)))
            own = model()
            aggregator = compsgd.VoteAggregator(own.parameters(), scale="mean_abs", exchange=name)
            sgd = torch.optim.SGD(own.parameters(), 0.01)
            sgd.register_step_pre_hook(lambda *_, one=aggregator: one.aggregate())
            found.append(weights + train(own, sgd))
    assert all(map(torch.equal, *found))


@on_ranks(3)
def test_hosts_that_differ_are_told_on_every_process():
    with pytest.raises(PeerError, match=r"disagree on how many processes share a host"):
        exchange_of(3, 2)


@on_ranks(4)
def test_what_it_does_not_know_is_told():
    net = model()
    with pytest.raises(SettingError, match=r"verify_fraction is 0\.5, but with exchange='hier"):
        compsgd.CompressedSGDVote(
            net.parameters(), 0.01, exchange=exchange_of(4, 2), verify_fraction=0.5
        )


@on_ranks(1, 4)
def test_one_level_is_scatter_reduce():
    for per_host in (1, dist.get_world_size()):
        assert type(exchange_of(4, per_host)) is ScatterReduceExchange

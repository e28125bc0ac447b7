"""`process_group=` of the optimizers: the exchange that one would make by hand."""

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from tiny_training import assert_all_ranks_alike, assert_equal_weights, loss_of, model

import compsgd
from compsgd import SettingError
from compsgd.comm import (
    AllGatherExchange,
    Collectives,
    Ledger,
    Purpose,
    ScatterReduceExchange,
    build_exchange,
)

OPTIMIZERS = [compsgd.SGD, compsgd.SignSGD, compsgd.CompressedSGD, compsgd.CompressedSGDVote]
KINDS = {"all_gather": AllGatherExchange, "scatter_reduce": ScatterReduceExchange}


def name_of(optimizer):
    return optimizer.__name__


def train(net, optimizer, num_rounds=3):
    for round_ in range(num_rounds):
        for slot, worker in enumerate(optimizer.exchange.hosted):
            optimizer.zero_grad()
            loss_of(net, worker, round_).backward()
            optimizer.compress(slot)
        optimizer.step()


def trained(make, **settings):
    """A model after some rounds, and the exchange that carried them."""
    net = model()
    optimizer = make(net.parameters(), 0.01, **settings)
    train(net, optimizer)
    return net, optimizer.exchange


@pytest.mark.parametrize("exchange", ["auto", "all_gather", "scatter_reduce"])
@pytest.mark.parametrize("num_workers", [2, 4])
@pytest.mark.parametrize("make", OPTIMIZERS, ids=name_of)
@on_ranks(2)
def test_equals_what_is_built_by_hand(make, num_workers, exchange):
    collectives = Collectives(Ledger(), Purpose.GRADIENT, num_workers, dist.new_group())
    by_hand, its_exchange = trained(make, exchange=build_exchange(exchange, collectives))
    by_name, same_exchange = trained(
        make, num_workers=num_workers, exchange=exchange, process_group=dist.group.WORLD
    )
    alone, _ = trained(make, num_workers=num_workers)
    assert_equal_weights(by_name, by_hand)
    assert_equal_weights(by_name, alone)
    assert_all_ranks_alike(by_name)
    assert type(same_exchange) is type(its_exchange)
    assert list(same_exchange.hosted) == list(range(dist.get_rank(), num_workers, 2))
    assert same_exchange.ledger.wire == its_exchange.ledger.wire
    assert same_exchange.ledger.num_steps == 3


@pytest.mark.parametrize("make", OPTIMIZERS, ids=name_of)
@pytest.mark.parametrize("exchange", KINDS)
@on_ranks(2, 4)
def test_the_name_alone_means_all_processes_and_a_worker_each(make, exchange):
    one = make([torch.zeros(3)], 0.1, exchange=exchange)
    assert type(one.exchange) is KINDS[exchange]
    assert one.exchange.num_workers == dist.get_world_size()
    assert list(one.exchange.hosted) == [dist.get_rank()]


@on_ranks(4)
def test_the_processes_of_a_group():
    """Two halves that train by themselves."""
    halves = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    rank = dist.get_rank()
    net, exchange = trained(
        compsgd.CompressedSGDVote, num_workers=4, process_group=halves[rank // 2]
    )
    assert list(exchange.hosted) == [rank % 2, rank % 2 + 2]
    alone, _ = trained(compsgd.CompressedSGDVote, num_workers=4)
    assert_equal_weights(net, alone)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=name_of)
@on_ranks(2)
def test_wrong_use(make):
    everybody, parameters = dist.group.WORLD, [torch.zeros(3)]
    rank_0 = dist.new_group([0])
    if dist.get_rank() == 1:
        with pytest.raises(SettingError, match="a group that this process is a member of"):
            make(parameters, 0.1, process_group=rank_0)
    else:
        assert make(parameters, 0.1, process_group=rank_0).exchange.num_workers == 1
    for settings, message in (
        ({"process_group": everybody, "num_workers": 3}, "multiple of the 2 processes"),
        ({"process_group": everybody, "exchange": "ring"}, "exchange is 'ring'"),
        ({"process_group": "gloo"}, "a group that this process is a member of"),
        (
            {"process_group": everybody, "exchange": compsgd.InProcessExchange(2)},
            "exchange and process_group are both given",
        ),
    ):
        with pytest.raises(SettingError, match=message):
            make(parameters, 0.1, **settings)


@pytest.mark.parametrize("settings", [{"exchange": "auto"}, {"process_group": "any"}], ids=list)
@pytest.mark.parametrize("make", OPTIMIZERS, ids=name_of)
def test_without_torch_distributed(make, settings):
    with pytest.raises(SettingError, match="call init_process_group first"):
        make([torch.zeros(3)], 0.1, **settings)

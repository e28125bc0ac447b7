"""A rank that puts collectives and exchange to the test; an assertion that fails ends it."""

import sys
from pathlib import Path

import pytest
import torch

from compsgd.comm import AllGatherExchange, ScatterReduceExchange
from compsgd.comm.ledger import Purpose
from compsgd.comm.messages import ElsewhereError, all_succeed, gather_messages
from compsgd.comm.place import Place
from compsgd.comm.process_group import connect
from compsgd.comm.store import open_store
from compsgd.errors import CompsgdError

NUM_WORKERS = 4


def check_all_gather(network, place):
    exchange = AllGatherExchange(network.gradient)
    assert list(exchange.hosted) == list(range(place.rank, NUM_WORKERS, place.world_size))
    everyones = torch.arange(NUM_WORKERS * 10, dtype=torch.uint8).view(NUM_WORKERS, 10)
    mine = everyones[list(exchange.hosted)]
    assert torch.equal(exchange.all_gather(mine), everyones)
    assert torch.equal(exchange.distribute(mine.unsqueeze(1), 10), everyones)
    exchange.end_round(range(NUM_WORKERS))
    step = network.ledger.steps[-1]
    assert step.logical == (2 * 3 * 10,) * 2
    assert step.wire == (2 * (place.world_size - 1) * len(exchange.hosted) * 10,) * 2
    assert network.ledger.wire[Purpose.BOOKKEEPING] == (0, 0)


def check_scatter_reduce(network, place):
    exchange = ScatterReduceExchange(network.gradient)
    world_size, hosted = place.world_size, len(exchange.hosted)
    # ballots[worker, shard] says both.
    ballots = torch.stack([torch.full((world_size, 5), 10 * w) for w in range(NUM_WORKERS)])
    ballots = (ballots + torch.arange(world_size)[:, None]).to(torch.uint8)
    received = exchange.distribute(ballots[list(exchange.hosted)], logical_num_bytes=7)
    assert torch.equal(received, ballots[:, place.rank])
    result = torch.full((4,), place.rank, dtype=torch.uint8)
    collected = exchange.collect(result, logical_num_bytes=2)
    assert collected[:, 0].tolist() == list(range(world_size))
    exchange.end_round(())
    step = network.ledger.steps[-1]
    assert step.logical == (3 * (7 + 2),) * 2
    assert step.wire == ((world_size - 1) * (hosted * 5 + 4),) * 2
    assert [transfer.collective for transfer in step.transfers] == ["all_to_all", "all_gather"]


def check_sum(network, place):
    exchange = AllGatherExchange(network.gradient)
    vectors = torch.randn(NUM_WORKERS, 13, generator=torch.Generator().manual_seed(0)) * 1e3
    shard_sum = exchange.new_sum(13, torch.device("cpu"))
    for slot, worker in enumerate(exchange.hosted):
        exchange.add_to_sum(shard_sum, slot, vectors[worker])
    in_order = torch.zeros(13)
    for vector in vectors:
        in_order += vector
    assert torch.equal(exchange.collect_sum(shard_sum, 13), in_order)
    exchange.end_round(())
    step = network.ledger.steps[-1]
    assert step.logical == (2 * 3 * -(-13 // NUM_WORKERS) * 4,) * 2
    wire_shard_bytes = -(-13 // place.world_size) * 4
    turns = len(exchange.hosted) + 1
    assert step.wire == ((place.world_size - 1) * turns * wire_shard_bytes,) * 2


def check_messages(network, place):
    expected = [{"rank": rank, "text": "x" * 100 * rank} for rank in range(place.world_size)]
    assert gather_messages(network.bookkeeping, expected[place.rank]) == expected
    sent = torch.arange(5, dtype=torch.float64) + place.rank
    assert torch.equal(network.bookkeeping.broadcast(sent), torch.arange(5, dtype=torch.float64))
    assert sent[0] == place.rank


def check_failure_is_shared(network, place):
    def fail_on_the_last():
        if place.rank == place.world_size - 1:
            raise CompsgdError("no good")

    failed_here = place.rank == place.world_size - 1
    expected = CompsgdError if failed_here else ElsewhereError
    with pytest.raises(expected, match="no good") as raised:
        all_succeed(network.bookkeeping, fail_on_the_last, (CompsgdError,))
    assert failed_here or raised.value.kind == "CompsgdError"


if __name__ == "__main__":
    place = Place.from_environment()
    with connect(place, open_store(place), NUM_WORKERS, "gloo", 60, torch.device("cpu")) as network:
        check_all_gather(network, place)
        check_scatter_reduce(network, place)
        check_sum(network, place)
        check_messages(network, place)
        check_failure_is_shared(network, place)
    Path(sys.argv[1]).joinpath(f"done{place.rank}").touch()

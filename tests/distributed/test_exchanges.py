"""Collectives, exchanges and messages over real processes, and what the ledger says of them."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks

from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.wire import RoundFormat, WireFormat
from compsgd.comm import AllGatherExchange, Collectives, Ledger, ScatterReduceExchange
from compsgd.comm.group.messages import all_succeed, gather_messages
from compsgd.comm.traffic.ledger import Purpose
from compsgd.errors import CompsgdError
from compsgd.internal_errors import ElsewhereError
from compsgd.kinds import ANYTHING
from compsgd.voting.float_sum import FloatSum

NUM_WORKERS = 4
FORMAT = RoundFormat(WireFormat(100, ballot_alphabet(3, False), 4), WireFormat(90, None))


def collectives(purpose=Purpose.GRADIENT):
    return Collectives(Ledger(), purpose, NUM_WORKERS, dist.new_group(), timedelta(seconds=60))


@on_ranks(1, 2, 4)
def test_all_gather():
    exchange = AllGatherExchange(collectives())
    world_size = dist.get_world_size()
    assert list(exchange.hosted) == list(range(dist.get_rank(), NUM_WORKERS, world_size))
    everyones = torch.arange(NUM_WORKERS * 10, dtype=torch.uint8).view(NUM_WORKERS, 10)
    mine = everyones[list(exchange.hosted)]
    assert torch.equal(exchange.distribute(mine.unsqueeze(1), FORMAT)(), everyones)
    result = torch.ones(5, dtype=torch.uint8)
    assert torch.equal(exchange.collect(result, FORMAT)()[0], result)
    exchange.end_round(range(NUM_WORKERS))
    (step,) = exchange.ledger.steps
    assert step.logical == (3 * (4 + 40),) * 2
    assert step.wire == ((world_size - 1) * len(exchange.hosted) * 10,) * 2
    assert exchange.ledger.wire[Purpose.BOOKKEEPING] == (0, 0)


@on_ranks(1, 2, 4)
def test_scatter_reduce():
    exchange = ScatterReduceExchange(collectives())
    world_size, hosted = dist.get_world_size(), len(exchange.hosted)
    # ballots[worker, shard] says both.
    ballots = torch.stack([torch.full((world_size, 5), 10 * w) for w in range(NUM_WORKERS)])
    ballots = (ballots + torch.arange(world_size)[:, None]).to(torch.uint8)
    received = exchange.distribute(ballots[list(exchange.hosted)], FORMAT)()
    assert torch.equal(received, ballots[:, dist.get_rank()])
    result = torch.full((4,), dist.get_rank(), dtype=torch.uint8)
    if world_size > 1:
        collected = exchange.collect(result, FORMAT)()
        assert collected[:, 0].tolist() == list(range(world_size))
    exchange.end_round(())
    (step,) = exchange.ledger.steps
    # Shards of 25 levels and of 23 floats.
    assert step.logical == (3 * (4 + 12 + 4 * 23),) * 2
    assert step.wire == ((world_size - 1) * (hosted * 5 + 4),) * 2
    assert [transfer.collective for transfer in step.transfers] == ["all_to_all", "all_gather"]


@on_ranks(1, 2, 4)
def test_sum():
    exchange = AllGatherExchange(collectives())
    vectors = torch.randn(NUM_WORKERS, 13, generator=torch.Generator().manual_seed(0)) * 1e3
    total = FloatSum(13, exchange, torch.device("cpu"))
    for worker in exchange.hosted:
        total.add(vectors[worker])
    in_order = torch.zeros(13)
    for vector in vectors:
        in_order += vector
    assert torch.equal(total.total(), in_order)
    exchange.end_round(())
    (step,) = exchange.ledger.steps
    assert step.logical == (2 * 3 * -(-13 // NUM_WORKERS) * 4,) * 2
    world_size = dist.get_world_size()
    wire_shard_bytes = -(-13 // world_size) * 4
    turns = len(exchange.hosted) + 1
    assert step.wire == ((world_size - 1) * turns * wire_shard_bytes,) * 2


@on_ranks(1, 2, 4)
def test_messages():
    bookkeeping, rank = collectives(Purpose.BOOKKEEPING), dist.get_rank()
    expected = [{"rank": one, "text": "x" * 100 * one} for one in range(dist.get_world_size())]
    assert gather_messages(bookkeeping, expected[rank], ANYTHING) == expected
    sent = torch.arange(5, dtype=torch.float64) + rank
    assert torch.equal(bookkeeping.broadcast(sent), torch.arange(5, dtype=torch.float64))
    assert sent[0] == rank


@on_ranks(1, 2, 4)
def test_a_failure_is_shared():
    failed_here = dist.get_rank() == dist.get_world_size() - 1

    def fail_on_the_last():
        if failed_here:
            raise CompsgdError("no good")

    expected = CompsgdError if failed_here else ElsewhereError
    with pytest.raises(expected, match="no good") as raised:
        all_succeed(collectives(Purpose.BOOKKEEPING), fail_on_the_last, (CompsgdError,))
    assert failed_here or raised.value.kind == "CompsgdError"

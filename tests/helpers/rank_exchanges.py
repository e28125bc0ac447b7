"""A rank that puts collectives and exchange to the test; an assertion that fails ends it."""

import sys
from pathlib import Path

import pytest
import torch

from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.wire import RoundFormat, WireFormat
from compsgd.comm import AllGatherExchange, ScatterReduceExchange
from compsgd.comm.group.messages import ElsewhereError, all_succeed, gather_messages
from compsgd.comm.group.process_group import connect
from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.group.store import open_store
from compsgd.comm.traffic.ledger import Purpose
from compsgd.errors import CompsgdError
from compsgd.voting.float_sum import FloatSum

NUM_WORKERS = 4


FORMAT = RoundFormat(WireFormat(100, ballot_alphabet(3, False), 4), WireFormat(90, None))


def check_all_gather(network, rank_info):
    exchange = AllGatherExchange(network.gradient)
    world_size = rank_info.world_size
    assert list(exchange.hosted) == list(range(rank_info.rank, NUM_WORKERS, world_size))
    everyones = torch.arange(NUM_WORKERS * 10, dtype=torch.uint8).view(NUM_WORKERS, 10)
    mine = everyones[list(exchange.hosted)]
    assert torch.equal(exchange.distribute(mine.unsqueeze(1), FORMAT), everyones)
    result = torch.ones(5, dtype=torch.uint8)
    assert torch.equal(exchange.collect(result, FORMAT)[0], result)
    exchange.end_round(range(NUM_WORKERS))
    step = network.ledger.steps[-1]
    assert step.logical == (3 * (4 + 40),) * 2
    assert step.wire == ((world_size - 1) * len(exchange.hosted) * 10,) * 2
    assert network.ledger.wire[Purpose.BOOKKEEPING] == (0, 0)


def check_scatter_reduce(network, rank_info):
    exchange = ScatterReduceExchange(network.gradient)
    world_size, hosted = rank_info.world_size, len(exchange.hosted)
    # ballots[worker, shard] says both.
    ballots = torch.stack([torch.full((world_size, 5), 10 * w) for w in range(NUM_WORKERS)])
    ballots = (ballots + torch.arange(world_size)[:, None]).to(torch.uint8)
    received = exchange.distribute(ballots[list(exchange.hosted)], FORMAT)
    assert torch.equal(received, ballots[:, rank_info.rank])
    result = torch.full((4,), rank_info.rank, dtype=torch.uint8)
    if world_size > 1:
        collected = exchange.collect(result, FORMAT)
        assert collected[:, 0].tolist() == list(range(world_size))
    exchange.end_round(())
    step = network.ledger.steps[-1]
    # Shards of 25 levels and of 23 floats.
    assert step.logical == (3 * (4 + 12 + 4 * 23),) * 2
    assert step.wire == ((world_size - 1) * (hosted * 5 + 4),) * 2
    assert [transfer.collective for transfer in step.transfers] == ["all_to_all", "all_gather"]


def check_sum(network, rank_info):
    exchange = AllGatherExchange(network.gradient)
    vectors = torch.randn(NUM_WORKERS, 13, generator=torch.Generator().manual_seed(0)) * 1e3
    total = FloatSum(13, exchange, torch.device("cpu"))
    for worker in exchange.hosted:
        total.add(vectors[worker])
    in_order = torch.zeros(13)
    for vector in vectors:
        in_order += vector
    assert torch.equal(total.total(), in_order)
    exchange.end_round(())
    step = network.ledger.steps[-1]
    assert step.logical == (2 * 3 * -(-13 // NUM_WORKERS) * 4,) * 2
    wire_shard_bytes = -(-13 // rank_info.world_size) * 4
    turns = len(exchange.hosted) + 1
    assert step.wire == ((rank_info.world_size - 1) * turns * wire_shard_bytes,) * 2


def check_messages(network, rank_info):
    expected = [{"rank": rank, "text": "x" * 100 * rank} for rank in range(rank_info.world_size)]
    assert gather_messages(network.bookkeeping, expected[rank_info.rank]) == expected
    sent = torch.arange(5, dtype=torch.float64) + rank_info.rank
    assert torch.equal(network.bookkeeping.broadcast(sent), torch.arange(5, dtype=torch.float64))
    assert sent[0] == rank_info.rank


def check_failure_is_shared(network, rank_info):
    def fail_on_the_last():
        if rank_info.rank == rank_info.world_size - 1:
            raise CompsgdError("no good")

    failed_here = rank_info.rank == rank_info.world_size - 1
    expected = CompsgdError if failed_here else ElsewhereError
    with pytest.raises(expected, match="no good") as raised:
        all_succeed(network.bookkeeping, fail_on_the_last, (CompsgdError,))
    assert failed_here or raised.value.kind == "CompsgdError"


if __name__ == "__main__":
    rank_info = RankInfo.from_environment()
    with connect(
        rank_info, open_store(rank_info), NUM_WORKERS, "gloo", 60, torch.device("cpu")
    ) as network:
        check_all_gather(network, rank_info)
        check_scatter_reduce(network, rank_info)
        check_sum(network, rank_info)
        check_messages(network, rank_info)
        check_failure_is_shared(network, rank_info)
    Path(sys.argv[1]).joinpath(f"done{rank_info.rank}").touch()

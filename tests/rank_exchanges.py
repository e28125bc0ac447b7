"""A rank that puts collectives and exchange to the test; an assertion that fails ends it."""

import sys
from pathlib import Path

import pytest
import torch

from compsgd.comm import AllGatherExchange
from compsgd.comm.ledger import Purpose
from compsgd.comm.messages import ElsewhereError, all_succeed, gather_messages
from compsgd.comm.process_group import Place, connect
from compsgd.errors import CompsgdError
from compsgd.exchange import sum_in_order

NUM_WORKERS = 4


def check_exchange(network, place):
    exchange = AllGatherExchange(network.gradient)
    assert list(exchange.hosted) == list(range(place.rank, NUM_WORKERS, place.world_size))
    everyones = torch.arange(NUM_WORKERS * 10, dtype=torch.uint8).view(NUM_WORKERS, 10)
    assert torch.equal(exchange.all_gather(everyones[list(exchange.hosted)]), everyones)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(NUM_WORKERS, 13, generator=generator) * 1e3
    total = exchange.all_reduce_sum([vectors[worker] for worker in exchange.hosted])
    assert torch.equal(total, sum_in_order(list(vectors)))
    exchange.end_round(range(NUM_WORKERS))
    (step,) = network.ledger.steps
    shard_bytes = -(-13 // NUM_WORKERS) * 4
    assert step.logical.sent_bytes == 3 * 10 + 2 * 3 * shard_bytes
    hosted, others = len(exchange.hosted), place.world_size - 1
    wire_shard_bytes = -(-13 // place.world_size) * 4
    assert step.wire.sent_bytes == others * (hosted * 10 + (hosted + 1) * wire_shard_bytes)
    assert network.ledger.wire[Purpose.BOOKKEEPING].sent_bytes == 0


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
    with connect(place, NUM_WORKERS, "gloo", 60, torch.device("cpu")) as network:
        check_exchange(network, place)
        check_messages(network, place)
        check_failure_is_shared(network, place)
    Path(sys.argv[1]).joinpath(f"done{place.rank}").touch()

"""A rank that trains a vector as large as the published model's by real gradients of nothing, and
compares the ledger with the kernel."""

import functools
import json
import sys
from pathlib import Path

import torch

import compsgd
from compsgd.comm import build_exchange
from compsgd.comm.group.process_group import connect
from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.group.store import open_store
from compsgd.comm.traffic.kernel_counters import count_bytes

NUMEL, ROUNDS = 3_217_226, 3
eager_vote = functools.partial(compsgd.CompressedSGDVote, compile="off")


def measure(network, optimizer, exchange):
    """Bytes this rank sent: by the ledger, and by the kernel."""
    parameter = torch.zeros(NUMEL)
    carrier = build_exchange(exchange, network.gradient, network.bookkeeping)
    one = optimizer([parameter], 1e-4, exchange=carrier)
    parameter.grad = torch.randn(NUMEL)
    first_step = len(network.ledger.steps)
    before = count_bytes(network.gradient_sockets).sent_bytes
    for _ in range(ROUNDS):
        one.step()
    # What has been handed to the kernel has left it when everybody has received it.
    network.bookkeeping.all_gather(torch.zeros(1))
    kernel = count_bytes(network.gradient_sockets).sent_bytes - before
    steps = network.ledger.steps[first_step:]
    return {"ledger": sum(step.wire.sent_bytes for step in steps), "kernel": kernel}


if __name__ == "__main__":
    place = RankInfo.from_environment()
    with connect(
        place, open_store(place), place.world_size, "gloo", 60, torch.device("cpu")
    ) as network:
        results = {
            "sgd": measure(network, compsgd.SGD, "auto"),
            "all_gather": measure(network, eager_vote, "all_gather"),
            "scatter_reduce": measure(network, eager_vote, "scatter_reduce"),
        }
    Path(sys.argv[1]).joinpath(f"{place.rank}.json").write_text(json.dumps(results))

"""Two ranks, of which the second ends without a word before a vote: the first, or the next."""

import os
import sys
import time

import pytest
import torch
import torch.distributed as dist

import compsgd

TIMEOUT_S = 3.0


def main(num_votes):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    parameter = torch.nn.Parameter(torch.zeros(50))
    aggregator = compsgd.VoteAggregator([parameter], timeout_s=TIMEOUT_S, compile="off")
    for _ in range(num_votes):
        parameter.grad = torch.ones(50)
        aggregator.aggregate()
    if dist.get_rank() == 1:
        os._exit(0)
    parameter.grad = torch.ones(50)
    began = time.monotonic()
    with pytest.raises(compsgd.PeerError) as raised:
        aggregator.aggregate()
    print(round(time.monotonic() - began, 2))
    assert isinstance(raised.value, RuntimeError)
    assert not isinstance(raised.value, ValueError)
    print(raised.value)
    sys.stdout.flush()
    # Leaving a group in which a process is missing may take forever.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))

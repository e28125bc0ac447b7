"""A rank for hostile_peers.py: of `launch.py`, or of a DistributedDataParallel with the hook; one
of them is hostile.

hostile_rank.py MODE launch.py OPTIONS
hostile_rank.py MODE hook
"""

import os
import sys
from datetime import timedelta

import hostile_modes
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm import register_vote_hook
from compsgd.voting.replicas import digest
from compsgd.workers.commands.cli import launch
from compsgd.workers.commands.execution import execute

_NUM_STEPS = 12
_TIMEOUT_S = 8.0


def main() -> None:
    mode, client = hostile_modes.named(sys.argv[1]), sys.argv[2]
    if int(os.environ["RANK"]) == hostile_modes.RANK:
        mode.patch()
    if client == "hook":
        _train_behind_the_hook(mode)
    else:
        del sys.argv[1:3]
        execute(launch, "launch.py")


def _train_behind_the_hook(mode: hostile_modes.Mode) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=_TIMEOUT_S))
    torch.manual_seed(0)
    ddp = DistributedDataParallel(nn.Sequential(nn.Linear(40, 90), nn.ReLU(), nn.Linear(90, 10)))
    register_vote_hook(
        ddp, scale="mean_abs", momentum=0.9, exempt_1d=True, exchange=mode.exchange,
        check_every=2, verify_fraction=float(mode.verifies), timeout_s=_TIMEOUT_S, compile="off",
    )  # fmt: skip
    adam = torch.optim.AdamW(ddp.parameters(), lr=1e-3, betas=(0.0, 0.99))
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(_NUM_STEPS):
        adam.zero_grad()
        ddp(torch.randn(16, 40, generator=generator)).square().mean().backward()
        adam.step()
    is_finite = all(bool(one.isfinite().all()) for one in ddp.parameters())
    print(f"weights {digest(ddp.parameters()) if is_finite else 'not finite'}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

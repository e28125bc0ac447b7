"""A rank of a DistributedDataParallel with the hook, for link_faults.py; as a user writes one.

link_faults_ddp.py TIMEOUT_S FILE_THAT_SAYS_IT_TRAINS
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm import register_vote_hook

_NUM_STEPS = 1500


def main() -> None:
    timeout_s = float(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
    torch.manual_seed(0)
    ddp = DistributedDataParallel(nn.Sequential(nn.Linear(100, 500), nn.ReLU(), nn.Linear(500, 10)))
    register_vote_hook(ddp, scale="mean_abs", momentum=0.9, timeout_s=timeout_s, compile="off")
    adam = torch.optim.AdamW(ddp.parameters(), lr=1e-3, betas=(0.0, 0.99))
    for step in range(_NUM_STEPS):
        adam.zero_grad()
        ddp(torch.randn(16, 100)).square().mean().backward()
        adam.step()
        if step == 20 and dist.get_rank() == 0:
            Path(sys.argv[2]).touch()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

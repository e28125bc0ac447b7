"""A training loop of one's own: the aggregator puts the vote of all processes into p.grad.

torchrun --nproc_per_node 2 scripts/examples/own_loop.py

A small network learns, from random points, on which side of a curve they lie. There is no
DistributedDataParallel: every process has its own data and its own model, all begin with the same
weights, and the vote keeps them the same.
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn

import compsgd


def batch(generator: torch.Generator, size: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    points = torch.randn(size, 2, generator=generator)
    return points, (points[:, 1] > torch.sin(3 * points[:, 0])).long()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--num_bits", type=int, default=3)
    asked = parser.parse_args()

    dist.init_process_group("gloo")
    torch.manual_seed(0)  # the same weights in every process
    model = nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    own_data = torch.Generator().manual_seed(dist.get_rank())

    # Momentum is in the aggregator, and so not in Adam.
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.0, 0.99))
    aggregator = compsgd.VoteAggregator(
        model.parameters(), num_bits=asked.num_bits, scale="mean_abs", momentum=0.9,
        decay_min=0.99, decay_max=0.99, exempt_1d=True,
    )  # fmt: skip
    for _ in range(asked.steps):
        points, sides = batch(own_data)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(points), sides).backward()
        aggregator.aggregate()
        optimizer.step()

    if dist.get_rank() == 0:
        points, sides = batch(torch.Generator().manual_seed(1000), 10_000)
        correct = (model(points).argmax(1) == sides).float().mean().item()
        sent_bytes = aggregator.ledger.steps[-1].wire.sent_bytes
        full_bytes = 4 * sum(one.numel() for one in model.parameters())
        print(f"{100 * correct:.1f} % of the points on the right side")
        print(f"{sent_bytes:,} bytes in a step; as float32 they are {full_bytes:,}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""A rank that trains through the hook beside a CompressedSGDVote, and compares them."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import compsgd
from compsgd.comm import Collectives, Ledger, build_exchange, wrap
from compsgd.comm.ledger import Purpose


def model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def batch(rank, step):
    generator = torch.Generator().manual_seed(100 * step + rank)
    return (
        torch.randn(16, 1, 8, 8, generator=generator),
        torch.randint(10, (16,), generator=generator),
    )


def equals_the_optimizer(bucket_cap_mb, binning):
    """plain SGD through the hook, and CompressedSGDVote on the same gradients: the same bits."""
    rank, size = dist.get_rank(), dist.get_world_size()
    hooked = DistributedDataParallel(model(), bucket_cap_mb=bucket_cap_mb)
    state = wrap(hooked, num_bits=3, binning=binning, decay_max=0.9, seed=5, compile="off")
    sgd = torch.optim.SGD(hooked.parameters(), lr=0.01)
    plain = model()
    ledger = Ledger()
    collectives = Collectives(ledger, Purpose.GRADIENT, size, dist.new_group())
    voted = compsgd.CompressedSGDVote(
        plain.parameters(), 0.01, num_bits=3, binning=binning, decay_max=0.9, seed=5,
        compile="off", exchange=build_exchange("auto", collectives),
    )  # fmt: skip
    for step in range(6):
        images, labels = batch(rank, step)
        for net, optimizer in ((hooked, sgd), (plain, voted)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    for one, other in zip(hooked.module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert len(state.ledger.steps) == 6
    assert state.ledger.steps[-1].wire.sent_bytes > 0
    assert "compression" in state.summary()


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for cap in (25, 0.01):
        for binning in ("lin", "exp"):
            equals_the_optimizer(cap, binning)
    dist.destroy_process_group()
    print("done", file=sys.stderr) if False else None

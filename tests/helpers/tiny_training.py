"""Small models, batches by rank and step, and what is said of weights on all ranks."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import compsgd
from compsgd.comm import register_vote_hook

SETTINGS = {"num_bits": 3, "decay_max": 0.9, "seed": 5, "compile": "native"}
# What a parameter's gradient is made of after a vote of 3 bits.
LEVELS = {-4, -3, -2, -1, 1, 2, 3, 4}


class Net(nn.Module):
    """With a branch that only some batches take, and one that none does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 8, 3)
        self.hidden = nn.Linear(288, 64)
        self.norm = nn.LayerNorm(64)
        self.branch = nn.Linear(64, 64)
        self.never = nn.Linear(64, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, images, takes_branch=True):
        hidden = self.norm(self.hidden(self.conv(images).relu().flatten(1)).relu())
        if takes_branch:
            hidden = hidden + self.branch(hidden)
        return self.out(hidden)


def model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def batch(worker, step):
    generator = torch.Generator().manual_seed(100 * step + worker)
    return (
        torch.randn(16, 1, 8, 8, generator=generator),
        torch.randint(10, (16,), generator=generator),
    )


def loss_of(net, worker, step, **arguments):
    images, labels = batch(worker, step)
    return nn.functional.cross_entropy(net(images, **arguments), labels)


def vote_optimizer(net, **settings):
    """A CompressedSGDVote of the same settings over the same processes."""
    return compsgd.CompressedSGDVote(
        net.parameters(), 0.01, process_group=dist.group.WORLD, **SETTINGS | settings
    )


def hooked_training(net, lr, **settings):
    """A model behind the hook in several buckets, the hook's state, and an SGD."""
    hooked = DistributedDataParallel(net, bucket_cap_mb=0.01)
    state = register_vote_hook(hooked, **SETTINGS | settings)
    return hooked, state, torch.optim.SGD(hooked.parameters(), lr=lr)


def train(net, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        loss_of(net, dist.get_rank(), step).backward()
        optimizer.step()


def assert_equal_weights(one, other):
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def everyones(tensor):
    """By rank."""
    mine = tensor.detach().contiguous()
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    return found


def assert_all_ranks_alike_in(tensors):
    for tensor in tensors:
        found = everyones(tensor.double())
        assert all(torch.equal(found[0], one) for one in found)


def assert_all_ranks_alike(net):
    assert_all_ranks_alike_in(net.parameters())

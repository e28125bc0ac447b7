"""A few steps of a model that is long enough for several chunks."""

import torch
import torch.distributed as dist
from torch import nn


def model(width, height):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, height), nn.ReLU(), nn.Linear(height, width))


def train(net, optimizer, num_steps=3):
    """Each rank on inputs of its own; the weights that come of it."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    width = next(net.parameters()).shape[1]
    for _ in range(num_steps):
        optimizer.zero_grad()
        net(torch.randn(8, width, generator=generator)).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]

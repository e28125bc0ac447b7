"""Rows of embeddings that no batch touches."""

import pytest
import torch
from torch import nn

import compsgd

TOUCHED, LEFT, NEVER = slice(0, 4), slice(4, 6), slice(6, 8)


class Net(nn.Module):
    """An embedding, whose rows 4 and 5 are read in the first rounds only, and a layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(8, 3)
        self.layer = nn.Linear(3, 3, bias=False)


def movements(groups, **settings):
    """By how much rows move at most, while no batch touches them: those left, and those never
    touched."""
    net = Net()
    optimizer = compsgd.CompressedSGDVote(
        groups(net), lr=0.01, num_workers=2, decay_min=0.99, decay_max=0.99, **settings
    )
    generator = torch.Generator().manual_seed(1)
    for round_ in range(60):
        if round_ == 10:
            before = net.table.weight.detach().clone()
        for worker in range(2):
            optimizer.zero_grad()
            rows = torch.randint(6 if round_ < 10 else 4, (8,), generator=generator)
            net.layer(net.table(rows)).square().mean().backward()
            optimizer.compress(worker)
        optimizer.step()
    moved = (net.table.weight.detach() - before).abs()
    return moved[LEFT].max().item(), moved[NEVER].max().item()


def all_voted(net):
    return net.parameters()


def table_exempt(net):
    return [
        {"params": compsgd.embedding_parameters(net), "exempt": True},
        {"params": net.layer.parameters()},
    ]


def test_broken_zeros_are_random_steps():
    left, never = movements(all_voted)
    assert left > 0.01
    assert never > 0.01


def test_kept_zeros_hold_what_was_never_touched():
    assert movements(all_voted, rand_zero=False) == (0, 0)


def test_with_momentum_a_kept_zero_repeats_the_last_step():
    """A running mean that fades is never 0, and its level is 1 at least."""
    left, never = movements(all_voted, rand_zero=False, momentum=0.9)
    # Some 50 rounds, a level each, and more at first.
    assert left > 0.4
    assert never == 0


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_exempt_they_fade_out(name):
    left, never = movements(table_exempt, momentum=0.9, exempt_optimizer=name)
    assert left < 0.1
    assert never == 0


def test_embeddings_are_found_once():
    net = Net()
    net.head = nn.Linear(3, 8, bias=False)
    net.head.weight = net.table.weight
    net.bag = nn.EmbeddingBag(5, 2)
    found = compsgd.embedding_parameters(net)
    assert [one is own for one, own in zip(found, [net.table.weight, net.bag.weight],
                                           strict=True)] == [True, True]  # fmt: skip
    assert compsgd.embedding_parameters(nn.Linear(2, 2)) == []

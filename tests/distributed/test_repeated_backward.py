"""Votes that are voted on again are told of, once, with the remedy."""

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from silence import heard
from tiny_training import SETTINGS, hooked_training, loss_of, model
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm import VoteAggregator, register_vote_hook

pytestmark = pytest.mark.heavy


@on_ranks(2)
def test_backward_twice_before_a_step():
    hooked, _, sgd = hooked_training(model(), 0.01)
    with heard() as messages:
        for step in range(6):
            loss_of(hooked, dist.get_rank(), step).backward()
            if step % 2:
                sgd.step()
                sgd.zero_grad()
    (message,) = messages
    assert "use no_sync() for all but the last backward (reported once)" in message


@pytest.mark.parametrize("as_view", [False, True])
@pytest.mark.parametrize("to_none", [False, True])
@on_ranks(2)
def test_right_ways_are_not_told_of(as_view, to_none):
    """Accumulation under no_sync, skipped steps, and cleared gradients."""
    hooked = DistributedDataParallel(model(), gradient_as_bucket_view=as_view)
    register_vote_hook(hooked, **SETTINGS)
    sgd = torch.optim.SGD(hooked.parameters(), 0.01)
    with heard() as messages:
        for step in range(6):
            sgd.zero_grad(set_to_none=to_none)
            with hooked.no_sync():
                loss_of(hooked, dist.get_rank(), step).backward()
            loss_of(hooked, dist.get_rank(), step + 10).backward()
            if step != 2:
                sgd.step()
    assert not messages


def test_an_aggregator_is_watched_too():
    net = model()
    aggregator = VoteAggregator(net.parameters(), **SETTINGS)
    sgd = torch.optim.SGD(net.parameters(), 0.01)
    with heard() as messages:
        for step in range(4):
            sgd.zero_grad()
            loss_of(net, 0, step).backward()
            loss_of(net, 1, step).backward()
            aggregator.aggregate()
            sgd.step()
        assert not messages
        for step in range(2):
            loss_of(net, 0, step).backward()
            aggregator.aggregate()
    (message,) = messages
    assert "aggregate once" in message

"""Plain SGD through the hook, and CompressedSGDVote on the same gradients: the same bits."""

import contextlib
import copy

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from tiny_training import SETTINGS, Net, assert_equal_weights, loss_of, model, vote_optimizer
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm import VoteState, register_vote_hook, vote_hook

pytestmark = pytest.mark.heavy


def sgd_on(net):
    return torch.optim.SGD(net.parameters(), lr=0.01)


def equals_the_optimizer(memory_format=torch.contiguous_format, **ddp_settings):
    both = {"momentum": 0.9, "error_feedback": True}
    for more, compile in (
        ({}, "native"), ({}, "off"), ({"binning": "exp"}, "off"), (both, "native"),
        (both | {"binning": "exp"}, "off"),
    ):  # fmt: skip
        net = model().to(memory_format=memory_format)
        hooked = DistributedDataParallel(net, **ddp_settings)
        state = register_vote_hook(hooked, **SETTINGS | more | {"compile": compile})
        plain = model().to(memory_format=memory_format)
        pairs = (
            (hooked, sgd_on(hooked)),
            (plain, vote_optimizer(plain, compile="off", **more)),
        )
        for step in range(5):
            for net, optimizer in pairs:
                optimizer.zero_grad()
                loss_of(net, dist.get_rank(), step).backward()
                optimizer.step()
        assert_equal_weights(hooked.module, plain)
        assert len(state.ledger.steps) == 5
        assert all(step.wire.sent_bytes > 0 for step in state.ledger.steps)
        assert "compression" in state.summary()


@on_ranks(2, 4)
def test_one_bucket():
    equals_the_optimizer()


@on_ranks(2, 4)
def test_many_buckets():
    hooked = DistributedDataParallel(model(), bucket_cap_mb=0.01)
    sizes = []

    def counting(state, bucket):
        sizes.append(len(bucket.parameters()))
        return vote_hook(state, bucket)

    hooked.register_comm_hook(VoteState(params=hooked.parameters(), **SETTINGS), counting)
    for step in range(2):
        sizes.clear()
        hooked.zero_grad()
        loss_of(hooked, dist.get_rank(), step).backward()
    assert len(sizes) > 1
    equals_the_optimizer(bucket_cap_mb=0.01)


@on_ranks(2, 4)
def test_channels_last():
    equals_the_optimizer(memory_format=torch.channels_last, bucket_cap_mb=0.01)


@on_ranks(2, 4)
def test_static_graph():
    equals_the_optimizer(static_graph=True, bucket_cap_mb=0.01)


@on_ranks(2, 4)
def test_bucket_views():
    equals_the_optimizer(gradient_as_bucket_view=True, bucket_cap_mb=0.01)


@on_ranks(2, 4)
def test_accumulation():
    """Under no_sync gradients add up, and the vote is on the sum."""
    hooked, plain = DistributedDataParallel(model(), bucket_cap_mb=0.01), model()
    state = register_vote_hook(hooked, **SETTINGS)
    pairs = ((hooked, sgd_on(hooked)), (plain, vote_optimizer(plain)))
    for step in range(4):
        for net, optimizer in pairs:
            optimizer.zero_grad()
            quiet = net.no_sync() if net is hooked else contextlib.nullcontext()
            with quiet:
                loss_of(net, dist.get_rank(), 2 * step).backward()
            loss_of(net, dist.get_rank(), 2 * step + 1).backward()
            optimizer.step()
    assert_equal_weights(hooked.module, plain)
    assert len(state.ledger.steps) == 4


@on_ranks(2, 4)
def test_unused_parameters():
    """Some ranks have no gradient for a branch and sit out there; for another nobody has one."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(Net(), find_unused_parameters=True, bucket_cap_mb=0.01)
    plain = Net()
    never = copy.deepcopy(plain.never)
    register_vote_hook(hooked, **SETTINGS)
    pairs = ((hooked, sgd_on(hooked)), (plain, vote_optimizer(plain)))
    for step in range(4):
        takes_branch = (rank + step) % 2 == 0 or step == 3
        for net, optimizer in pairs:
            optimizer.zero_grad()
            loss_of(net, rank, step, takes_branch=takes_branch).backward()
            optimizer.step()
    assert_equal_weights(hooked.module, plain)
    assert_equal_weights(hooked.module.never, never)


@on_ranks(2, 4)
def test_join():
    """Ranks with fewer batches sit out at the end."""
    rank = dist.get_rank()
    hooked, plain = DistributedDataParallel(model(), bucket_cap_mb=0.01), model()
    register_vote_hook(hooked, **SETTINGS)
    sgd, voted = sgd_on(hooked), vote_optimizer(plain)
    num_batches = 2 + rank
    with Join([hooked]):
        for step in range(num_batches):
            sgd.zero_grad()
            loss_of(hooked, rank, step).backward()
            sgd.step()
    for step in range(1 + dist.get_world_size()):
        voted.zero_grad()
        if step < num_batches:
            loss_of(plain, rank, step).backward()
        voted.step()
    if rank == dist.get_world_size() - 1:
        assert_equal_weights(hooked.module, plain)

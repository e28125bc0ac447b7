"""The hook where gradients are not finite, exempt, of another type, scaled, or not there."""

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from tiny_training import (
    LEVELS,
    SETTINGS,
    assert_all_ranks_alike,
    assert_all_ranks_alike_in,
    assert_equal_weights,
    everyones,
    loss_of,
    model,
    train,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm import register_vote_hook

pytestmark = pytest.mark.heavy


@on_ranks(2, 4)
def test_infinite_gradients():
    """One rank's infinity sits out; where all have one, the scaler sees it and backs off."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(model())
    state = register_vote_hook(hooked, scale="mean_abs", **SETTINGS)
    sgd = torch.optim.SGD(hooked.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for step in range(6):
        poisoned = (step == 2 and rank == 0) or step == 4
        before = [parameter.clone() for parameter in hooked.parameters()]
        sgd.zero_grad()
        loss = loss_of(hooked, rank, step) * (float("inf") if poisoned else 1.0)
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()
        moved = any(
            not torch.equal(now, then)
            for now, then in zip(hooked.parameters(), before, strict=True)
        )
        assert moved == (step != 4)
        assert scaler.get_scale() == (16.0 if step < 4 else 8.0)
    assert_all_ranks_alike(hooked)
    assert all(bool(bound.isfinite().all()) for bound in state.state_dict()["memory"].values())


@on_ranks(2, 4)
def test_infinite_exempt_gradients():
    """A NaN on one rank poisons no average either; one on all is seen."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(model())
    register_vote_hook(hooked, exempt_1d=True, **SETTINGS)
    for culprits in ({0}, set(range(dist.get_world_size()))):
        hooked.zero_grad()
        (loss_of(hooked, rank, 0) * (float("nan") if rank in culprits else 1.0)).backward()
        gradients = [parameter.grad for parameter in hooked.parameters()]
        assert_all_ranks_alike_in([gradient.nan_to_num(7) for gradient in gradients])
        all_finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert all_finite == (culprits == {0})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@on_ranks(2, 4)
def test_other_types(dtype):
    """Half-precision parameters, and another default type."""
    torch.set_default_dtype(torch.float64)
    try:
        net = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 4)).to(dtype)
        hooked = DistributedDataParallel(net)
        register_vote_hook(hooked, scale="mean_abs", exempt_1d=True, **SETTINGS)
        inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(dist.get_rank()))
        hooked(inputs.to(dtype)).sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(parameter.grad.dtype == dtype for parameter in net.parameters())
    assert_all_ranks_alike_in([parameter.grad for parameter in net.parameters()])


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(8, 8), nn.Linear(300, 300)

    def forward(self, inputs):
        return self.used(inputs)


@on_ranks(2, 4)
def test_nobody_has_a_gradient():
    """A bucket in which nobody votes costs a header, no average."""
    hooked = DistributedDataParallel(Idle(), find_unused_parameters=True, bucket_cap_mb=0.01)
    state = register_vote_hook(hooked, **SETTINGS)
    for _ in range(3):
        hooked.zero_grad()
        hooked(torch.ones(2, 8) + dist.get_rank()).sum().backward()
    assert all(t.collective != "all_reduce" for step in state.ledger.steps for t in step.transfers)


@on_ranks(2, 4)
def test_exempt_parameters():
    """Vectors and small tensors are averaged as plain DDP does it, the others voted on."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(model(), bucket_cap_mb=0.01)
    register_vote_hook(hooked, exempt_1d=True, min_compress_numel=100, **SETTINGS)
    plain = DistributedDataParallel(model())
    loss_of(hooked, rank, 0).backward()
    loss_of(plain, rank, 0).backward()
    for one, other in zip(hooked.parameters(), plain.parameters(), strict=True):
        if one.ndim == 1 or one.numel() < 100:
            assert torch.allclose(one.grad, other.grad, rtol=1e-5, atol=1e-8)
        else:
            assert set(one.grad.unique().tolist()) <= LEVELS
    assert dist.get_world_size() > 1


@on_ranks(2, 4)
def test_mean_magnitudes():
    """scale="mean_abs": each tensor's mean magnitude is the lower median of the workers'."""
    rank, size = dist.get_rank(), dist.get_world_size()
    hooked, plain = DistributedDataParallel(model()), model()
    state = register_vote_hook(hooked, scale="mean_abs", **SETTINGS)
    loss_of(hooked, rank, 0).backward()
    loss_of(plain, rank, 0).backward()
    for one, own in zip(hooked.parameters(), plain.parameters(), strict=True):
        median = torch.stack(everyones(own.grad.abs().mean())).median()
        assert torch.allclose(one.grad.abs().mean(), median, rtol=1e-4)
    bare = DistributedDataParallel(model())
    bare_state = register_vote_hook(bare, **SETTINGS)
    loss_of(bare, rank, 0).backward()
    handed, bare_handed = (
        one.ledger.steps[0].transfers[0].handed_bytes for one in (state, bare_state)
    )
    num_shards = 1 if size == 2 else size
    assert handed - bare_handed == 4 * len(list(plain.parameters())) * num_shards


@on_ranks(2, 4)
def test_median_magnitudes_in_buckets():
    """They do not depend on how parameters are joined in buckets."""
    nets = [DistributedDataParallel(model(), bucket_cap_mb=size) for size in (25, 0.01)]
    for net in nets:
        register_vote_hook(net, scale="mean_abs", **SETTINGS)
        sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for step in range(3):
            sgd.zero_grad()
            loss_of(net, dist.get_rank(), step).backward()
            sgd.step()
    assert_equal_weights(*nets)


@on_ranks(2, 4)
def test_subgroups():
    """Two halves that train by themselves."""
    rank, half = dist.get_rank(), dist.get_world_size() // 2
    groups = [dist.new_group(list(range(first, first + half))) for first in (0, half)]
    group = groups[rank // half]
    hooked = DistributedDataParallel(model(), process_group=group, bucket_cap_mb=0.01)
    state = register_vote_hook(hooked, **SETTINGS)
    loss_of(hooked, rank, 0).backward()
    assert state.connect().world_size == half
    weight = hooked.module[0].weight.grad
    for other, theirs in enumerate(everyones(weight)):
        assert torch.equal(weight, theirs) == (other // half == rank // half)


@on_ranks(2, 4)
def test_start_later():
    """Plain averages before start_vote_iter."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(model())
    register_vote_hook(hooked, start_vote_iter=2, **SETTINGS)
    for step in range(4):
        hooked.zero_grad()
        loss_of(hooked, rank, step).backward()
        levels = {float(level) for level in hooked.module[0].weight.grad.unique()}
        assert (levels <= LEVELS) == (step >= 2)


@pytest.mark.parametrize("when", ["before DDP", "before the hook", "after the hook"])
@on_ranks(2)
def test_layers_that_are_frozen_at_any_time(when):
    """They stay as they are, and the others learn as if they had been frozen from the beginning."""

    def trained(when):
        net = model()
        frozen = net[3]
        frozen.requires_grad_(when != "before DDP")
        hooked = DistributedDataParallel(net, find_unused_parameters=when != "before DDP")
        frozen.requires_grad_(when == "after the hook")
        register_vote_hook(hooked, **SETTINGS)
        frozen.requires_grad_(False)
        sgd = torch.optim.SGD(hooked.parameters(), lr=0.01)
        train(hooked, sgd, range(3))
        return hooked.module

    first = model()
    found = trained(when)
    assert torch.equal(found[3].weight, first[3].weight)
    assert not torch.equal(found[0].weight, first[0].weight)
    assert_all_ranks_alike(found)
    if when == "before the hook":
        assert_equal_weights(found, trained("before DDP"))

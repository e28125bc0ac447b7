"""A GradScaler beside the optimizers: a rank that saw an infinite gradient skips nothing."""

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from silence import silent_log
from tiny_training import assert_all_ranks_alike, assert_equal_weights, loss_of, model

import compsgd
from compsgd import SettingError

OPTIMIZERS = [
    compsgd.SGD, compsgd.AdamW, compsgd.SignSGD, compsgd.CompressedSGD, compsgd.CompressedSGDVote,
]  # fmt: skip


def optimizer_of(make, net, group):
    return make(net.parameters(), 0.01, process_group=group)


def scaled_training(make, is_infinite=lambda rank, step: False, clips=False):
    """A model after four steps with a scaler, and the scale it has come to."""
    net = model()
    optimizer = optimizer_of(make, net, dist.group.WORLD)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    taken = []
    for step in range(4):
        optimizer.zero_grad()
        loss = loss_of(net, dist.get_rank(), step)
        factor = float("inf") if is_infinite(dist.get_rank(), step) else 1.0
        scaler.scale(loss * factor).backward()
        if clips:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1e9)
        with silent_log():
            scaler.step(optimizer)
        scaler.update()
        taken.append(optimizer.participants)
    return net, scaler.get_scale(), taken


@pytest.mark.parametrize("clips", [False, True], ids=["step", "unscale_"])
@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda one: one.__name__)
@on_ranks(2)
def test_finite_gradients_are_as_without_a_scaler(make, clips):
    scaled, scale, _ = scaled_training(make, clips=clips)
    plain = model()
    optimizer = optimizer_of(make, plain, dist.group.WORLD)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(plain, dist.get_rank(), step).backward()
        optimizer.step()
    assert scale == 1024.0
    # The scale is a power of two.
    assert_equal_weights(scaled, plain)


@pytest.mark.parametrize("clips", [False, True], ids=["step", "unscale_"])
@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda one: one.__name__)
@on_ranks(2)
def test_a_rank_with_an_infinite_gradient_sits_out(make, clips):
    net, scale, taken = scaled_training(make, lambda rank, step: (rank, step) == (1, 1), clips)
    assert taken == [(0, 1), (0,), (0, 1), (0, 1)]
    assert scale == (512.0 if dist.get_rank() == 1 else 1024.0)
    assert_all_ranks_alike(net)


@on_ranks(2)
def test_scaled_gradients_are_not_compressed():
    net = model()
    optimizer = optimizer_of(compsgd.CompressedSGDVote, net, dist.group.WORLD)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(net, 0, 0)).backward()
    optimizer.compress()
    with pytest.raises(SettingError, match=r"call scaler\.unscale_\(optimizer\) before compress"):
        scaler.step(optimizer)

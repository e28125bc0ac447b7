"""What people put around a DistributedDataParallel stands around one that votes, too: the same
weights as without it, bit for bit, or as that feature leaves them."""

import copy
import logging

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from tiny_training import (
    SETTINGS,
    assert_all_ranks_alike,
    assert_equal_weights,
    hooked_training,
    loss_of,
    model,
    train,
)
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint_sequential

from compsgd.comm import register_vote_hook

NUM_STEPS = 4


def trained(net=None):
    """The model behind the hook and plain SGD, as it ends without anything around it."""
    hooked, _, sgd = hooked_training(net or model(), 0.01)
    train(hooked, sgd, range(NUM_STEPS))
    return hooked.module


@on_ranks(2)
def test_torch_compile():
    """Graphs are cut at DistributedDataParallel's buckets; what they compute is as eager."""
    torch._dynamo.reset()
    torch._logging.set_logs(dynamo=logging.ERROR)
    hooked = DistributedDataParallel(model())
    state = register_vote_hook(hooked, **SETTINGS)
    compiled = torch.compile(hooked, backend="aot_eager")
    train(compiled, torch.optim.SGD(hooked.parameters(), lr=0.01), range(NUM_STEPS))
    assert state.iteration == NUM_STEPS
    assert_all_ranks_alike(hooked)
    for one, other in zip(hooked.module.parameters(), trained().parameters(), strict=True):
        # A gradient's last bit may make another level.
        assert (one - other).abs().max() <= 0.01 * 8 * NUM_STEPS
        assert (one == other).float().mean() > 0.9


class Recomputing(nn.Module):
    """Keeps no activations, and computes them once more in its backward."""

    def __init__(self):
        super().__init__()
        self.net = model()

    def forward(self, images):
        return checkpoint_sequential(self.net, 3, images, use_reentrant=False)


@on_ranks(2)
def test_activation_checkpointing():
    assert_equal_weights(trained(Recomputing()).net, trained())


@on_ranks(2)
def test_moving_averages_and_copies():
    hooked, state, sgd = hooked_training(model(), 0.01)
    average = AveragedModel(hooked.module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for step in range(NUM_STEPS):
        train(hooked, sgd, [step])
        average.update_parameters(hooked.module)
    assert state.iteration == NUM_STEPS
    assert_equal_weights(hooked.module, trained())
    assert_all_ranks_alike(average.module)
    frozen = copy.deepcopy(hooked.module)
    loss_of(frozen, 0, 0).backward()
    assert state.iteration == NUM_STEPS, "a copy is no part of the vote"


@on_ranks(2)
def test_an_optimizer_whose_state_is_sharded():
    hooked, _, _ = hooked_training(model(), 0.01)
    zero = ZeroRedundancyOptimizer(
        hooked.parameters(), torch.optim.AdamW, lr=0.01, betas=(0.0, 0.99)
    )
    train(hooked, zero, range(NUM_STEPS))
    whole, _, _ = hooked_training(model(), 0.01)
    adamw = torch.optim.AdamW(whole.parameters(), lr=0.01, betas=(0.0, 0.99))
    train(whole, adamw, range(NUM_STEPS))
    assert_all_ranks_alike(hooked)
    for one, other in zip(hooked.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@on_ranks(2)
def test_an_optimizer_that_evaluates_several_times():
    """LBFGS: each evaluation is a backward, and so a vote; all ranks see the same gradients."""
    hooked, state, _ = hooked_training(model(), 0.01, scale="mean_abs")
    lbfgs = torch.optim.LBFGS(hooked.parameters(), lr=0.1, max_iter=3)

    def closure():
        lbfgs.zero_grad()
        loss = loss_of(hooked, dist.get_rank(), 0)
        loss.backward()
        # What LBFGS decides by must be alike on all ranks.
        dist.all_reduce(mean := loss.detach().clone())
        return mean

    lbfgs.step(closure)
    assert state.iteration > 1
    assert_all_ranks_alike(hooked)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="SyncBatchNorm works on GPUs alone")
@on_ranks(2)
def test_synchronised_batch_norm():
    net = nn.SyncBatchNorm.convert_sync_batchnorm(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    ).cuda()
    hooked = DistributedDataParallel(net)
    state = register_vote_hook(hooked, **SETTINGS)
    images = torch.randn(4, 1, 8, 8, device="cuda")
    hooked(images).square().mean().backward()
    assert state.iteration == 1

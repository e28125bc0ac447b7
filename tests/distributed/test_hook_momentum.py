"""Momentum and error feedback in the hook, of what is voted on and of what is exempt."""

import copy

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
from torch.nn.parallel import DistributedDataParallel

from compsgd import VoteAggregator
from compsgd.comm import register_vote_hook

pytestmark = pytest.mark.heavy

BETA = 0.5
MORE = {"momentum": BETA, "error_feedback": True, "exempt_1d": True, "scale": "mean_abs"}


def start(net, **settings):
    return hooked_training(net, lr=0.1, **MORE | settings)


@on_ranks(2, 4)
def test_exempt_gradients_are_the_mean_of_running_means():
    """And "mean_abs" measures running means, before any error is added."""
    rank, size = dist.get_rank(), dist.get_world_size()
    hooked, plain = DistributedDataParallel(model(), bucket_cap_mb=0.01), model()
    register_vote_hook(hooked, **SETTINGS | MORE)
    means = [torch.zeros_like(parameter) for parameter in plain.parameters()]
    for step in range(3):
        hooked.zero_grad()
        plain.zero_grad()
        loss_of(hooked, rank, step).backward()
        loss_of(plain, rank, step).backward()
        for mean, own, voted in zip(means, plain.parameters(), hooked.parameters(), strict=True):
            mean.mul_(BETA).add_((1 - BETA) * own.grad)
            if own.ndim == 1:
                total = mean.clone()
                dist.all_reduce(total)
                assert torch.allclose(voted.grad, total / size, rtol=1e-4, atol=1e-8)
            else:
                magnitudes = [torch.zeros(()) for _ in range(size)]
                dist.all_gather(magnitudes, mean.abs().mean())
                median = torch.stack(magnitudes).median()
                assert torch.allclose(voted.grad.abs().mean(), median, rtol=1e-4)


@on_ranks(2, 4)
def test_a_gradient_that_is_not_finite_leaves_momentum_as_it_was():
    rank = dist.get_rank()
    hooked, state, sgd = start(model())
    train(hooked, sgd, range(2))
    before = state.state_dict()["memory"]
    sgd.zero_grad()
    (loss_of(hooked, rank, 2) * (float("inf") if rank == 0 else 1.0)).backward()
    after = state.state_dict()["memory"]
    assert set(before) == {"max", "min", "momentum", "error", "exempt_momentum"}
    for name, kept in before.items():
        assert torch.equal(kept, after[name]) == (rank == 0), name
    sgd.step()
    assert_all_ranks_alike(hooked)


@on_ranks(2)
def test_a_saved_state_goes_on_as_if_nothing_had_happened():
    whole, _, sgd = start(model())
    train(whole, sgd, range(6))
    first, state, sgd = start(model())
    train(first, sgd, range(3))
    second, other, sgd = start(copy.deepcopy(first.module))
    other.load_state_dict(state.state_dict())
    train(second, sgd, range(3, 6))
    assert_equal_weights(whole.module, second.module)


@on_ranks(2, 4)
def test_an_aggregator_does_what_the_hook_does():
    # Exempt ones are added up in an order that depends on what is sent together, which two numbers
    # do not mind.
    is_exact = dist.get_world_size() == 2
    for exempt_1d in (False, True) if is_exact else (False,):
        assert_equal_weights(*by_hook_and_aggregator(4, exempt_1d=exempt_1d))
    by_hook, by_aggregator = by_hook_and_aggregator(2, exempt_1d=True)
    for one, other in zip(by_hook.parameters(), by_aggregator.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def by_hook_and_aggregator(num_steps, *, exempt_1d):
    """Two models that have been trained alike."""
    hooked, _, sgd = start(model(), exempt_1d=exempt_1d)
    train(hooked, sgd, range(num_steps))
    plain = model()
    aggregator = VoteAggregator(plain.parameters(), **SETTINGS | MORE | {"exempt_1d": exempt_1d})
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(num_steps):
        sgd.zero_grad()
        loss_of(plain, dist.get_rank(), step).backward()
        aggregator.aggregate()
        sgd.step()
    return hooked.module, plain


@on_ranks(4)
def test_one_liar_cannot_take_the_scale_along():
    """One of four says 3e38: the lower median stays within what the others say."""
    rank = dist.get_rank()
    parameter = torch.nn.Parameter(torch.zeros(8))
    aggregator = VoteAggregator([parameter], scale="mean_abs", compile="off")
    for _ in range(3):
        parameter.grad = torch.full((8,), 3e38 if rank == 3 else 1.0 + rank)
        aggregator.aggregate()
        assert 1.0 <= float(parameter.grad.abs().mean()) <= 3.0


@on_ranks(2)
def test_two_momenta_are_warned_of():
    hooked = DistributedDataParallel(model())
    adam = torch.optim.AdamW(hooked.parameters())
    with pytest.warns(UserWarning, match=r"AdamW has betas\[0\]=0.9"):
        register_vote_hook(hooked, optimizer=adam, momentum=0.9)

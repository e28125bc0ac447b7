"""How parameters are moved: plain statements in float64, and torch's own optimizers."""

import numpy as np
import pytest
import torch

import compsgd

STEPS = 7


def gradients(num_steps=STEPS, numel=33, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(numel, generator=generator) for _ in range(num_steps)]


def trained(make, dtype=torch.float32, numel=33):
    """A parameter after some steps of an optimizer."""
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, numel).to(dtype))
    optimizer = make([parameter])
    for gradient in gradients(numel=numel):
        parameter.grad = gradient.to(dtype)
        optimizer.step()
    return parameter.detach(), optimizer


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.5])
def test_sgd_alone_is_that_of_torch(momentum):
    ours, _ = trained(lambda params: compsgd.SGD(params, 0.1, momentum=momentum))
    theirs, _ = trained(lambda params: torch.optim.SGD(params, 0.1, momentum=momentum))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("l2", [0.0, 0.01, 0.3])
def test_adamw_alone_is_that_of_torch(l2):
    ours, optimizer = trained(lambda params: compsgd.AdamW(params, 0.01, beta2=0.95, l2=l2))
    theirs, reference = trained(
        lambda params: torch.optim.AdamW(params, 0.01, betas=(0.9, 0.95), weight_decay=l2)
    )
    assert torch.equal(ours, theirs)
    (own,), (others,) = optimizer.state.values(), reference.state.values()
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(own[name], others[name])
    assert int(own["updates"]) == STEPS


def test_adamw_decays_unless_it_is_told_otherwise():
    assert compsgd.AdamW([torch.zeros(1)], 0.1).settings.l2 == 0.01
    assert compsgd.AdamW([torch.zeros(1)], 0.1, l2=0.0).settings.l2 == 0.0
    settings = compsgd.VoteSettings(l2=0.2)
    assert compsgd.AdamW([torch.zeros(1)], 0.1, settings=settings).settings.l2 == 0.2


def test_signum_is_sign_sgd_with_momentum():
    """Bernstein et al. 2018, Algorithm 1, with one worker: -lr * sign(u)."""
    for make in (compsgd.SignSGD, lambda *a, **k: compsgd.CompressedSGDVote(*a, num_bits=1, **k)):
        ours, _ = trained(lambda params, make=make: make(params, 0.125, momentum=0.9))
        mean, weights = np.zeros(33), np.linspace(-1, 1, 33, dtype=np.float32)
        for gradient in gradients():
            mean = 0.9 * mean + 0.1 * gradient.double().numpy()
            assert np.abs(mean).min() > 1e-6
            weights = (weights - 0.125 * np.sign(mean)).astype(np.float32)
        assert np.array_equal(ours.numpy(), weights)


@pytest.mark.parametrize("l2", [0.01, 2.0])
def test_decoupled_decay_is_that_of_adamw(l2):
    """p * (1 - lr * l2), rounded, then the update."""
    lr = 0.0625
    ours, _ = trained(lambda params: compsgd.SignSGD(params, lr, l2=l2))
    weights = torch.linspace(-1, 1, 33)
    for gradient in gradients():
        weights = weights * float(np.float32(1 - lr * l2))
        weights = (weights.double() - lr * gradient.sign().double()).float()
    assert torch.equal(ours, weights)


def test_nothing_decays_where_nobody_votes():
    voted, left = torch.ones(3), torch.ones(3)
    for make in (compsgd.SGD, compsgd.AdamW, compsgd.CompressedSGDVote):
        optimizer = make([voted, left], 0.1, l2=0.5)
        voted.grad, left.grad = torch.ones(3), None
        optimizer.step()
        assert left.tolist() == [1.0] * 3
        assert (voted < 1).all()


def test_a_group_has_an_l2_of_its_own():
    one, other = torch.ones(2), torch.ones(2)
    groups = [{"params": [one], "l2": 0.5}, {"params": [other], "l2": 0.0}]
    optimizer = compsgd.CompressedSGDVote(groups, 0.5, rand_zero=False, l2=0.25)
    one.grad = other.grad = torch.zeros(2)
    optimizer.step()
    assert one.tolist() == [0.75] * 2
    assert other.tolist() == [1.0] * 2
    with pytest.raises(compsgd.SettingError, match="l2 is -1; it must be from 0"):
        optimizer.add_param_group({"params": [torch.ones(1)], "l2": -1})


@pytest.mark.parametrize("make", [compsgd.SGD, compsgd.AdamW])
def test_half_precision_keeps_its_moments_in_float32(make):
    options = {"momentum": 0.9} if make is compsgd.SGD else {}
    parameter, optimizer = trained(lambda params: make(params, 0.01, **options), torch.bfloat16)
    assert parameter.dtype == torch.bfloat16
    (state,) = optimizer.state.values()
    kept = {name: value for name, value in state.items() if value.ndim}
    assert kept
    assert all(value.dtype == torch.float32 for value in kept.values())


def test_parameters_that_are_not_contiguous():
    parameter = torch.arange(6.0).view(2, 3).t()
    optimizer = compsgd.AdamW([parameter], 0.5, l2=0.0)
    parameter.grad = torch.ones(3, 2)
    optimizer.step()
    assert torch.allclose(parameter, torch.arange(6.0).view(2, 3).t() - 0.5)

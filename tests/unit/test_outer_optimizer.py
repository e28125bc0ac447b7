"""Two momenta, one in the vote and one in the optimizer, are told of."""

import warnings

import pytest
import torch

from compsgd import VoteSettings
from compsgd.comm.ddp.outer_optimizer import check_optimizer, first_moment, warn_of_two_momenta
from compsgd.errors import SettingError

WITH = {
    "momentum=0.9": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9),
    "betas[0]=0.9": lambda params: torch.optim.AdamW(params, 0.1),
    "momentum=0.5": lambda params: torch.optim.RMSprop(params, 0.1, momentum=0.5),
}
WITHOUT = [
    lambda params: torch.optim.SGD(params, 0.1),
    lambda params: torch.optim.AdamW(params, 0.1, betas=(0.0, 0.99)),
    lambda params: torch.optim.Adagrad(params, 0.1),
]


def params():
    return [torch.nn.Parameter(torch.zeros(2))]


@pytest.mark.parametrize("found", WITH)
def test_both_have_one(found):
    optimizer = WITH[found](params())
    assert first_moment(optimizer) == found
    with pytest.warns(UserWarning, match="averaged over time twice"):
        warn_of_two_momenta(VoteSettings(momentum=0.9), optimizer)


@pytest.mark.parametrize("make", WITHOUT)
def test_only_the_vote_has_one(make):
    assert first_moment(make(params())) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_two_momenta(VoteSettings(momentum=0.9), make(params()))


def test_only_the_optimizer_has_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_two_momenta(VoteSettings(), WITH["betas[0]=0.9"](params()))


def one_cycle(optimizer, **more):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10, **more)


@pytest.mark.parametrize("make", WITHOUT[:2])
def test_a_scheduler_that_brings_momentum_is_told_of_once(make):
    optimizer = make(params())
    if "momentum" in optimizer.defaults:
        optimizer.defaults["momentum"] = 0.9  # OneCycleLR refuses an SGD that has none
    warn_of_two_momenta(VoteSettings(momentum=0.9), optimizer)
    one_cycle(optimizer)
    with pytest.warns(UserWarning, match="averaged over time twice.*cycle_momentum=False"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_one_that_cycles_no_momentum_is_fine():
    optimizer = WITHOUT[1](params())
    warn_of_two_momenta(VoteSettings(momentum=0.9), optimizer)
    one_cycle(optimizer, cycle_momentum=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


class Wrapper(torch.optim.Optimizer):
    """As Accelerate's: it has nothing of its own but what it wraps."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups


def test_a_wrapped_optimizer_is_watched_inside():
    optimizer = WITHOUT[1](params())
    warn_of_two_momenta(VoteSettings(momentum=0.9), Wrapper(optimizer))
    one_cycle(optimizer)
    with pytest.warns(UserWarning, match="averaged over time twice"):
        optimizer.step()


@pytest.mark.parametrize("wrong", ["adamw", torch.optim.AdamW])
def test_what_is_no_optimizer_is_told(wrong):
    with pytest.raises(SettingError, match=r"optimizer is .*; give the torch.optim.Optimizer"):
        check_optimizer(wrong)

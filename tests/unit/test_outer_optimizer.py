"""Two momenta, one in the vote and one in the optimizer, are told of."""

import warnings

import pytest
import torch

from compsgd import VoteSettings
from compsgd.comm.ddp.outer_optimizer import first_moment, warn_of_two_momenta

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

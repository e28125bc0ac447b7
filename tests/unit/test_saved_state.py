"""Saved states of optimizers: one that does not fit is one error of ours, and changes nothing."""

import copy
import math

import pytest
import torch
from mutations import mutations

import compsgd
from compsgd import SettingError

MAKES = {
    "sgd": lambda params: compsgd.SGD(params, 0.1, num_workers=2, momentum=0.9),
    "adamw": lambda params: compsgd.AdamW(params, 0.1, num_workers=2),
    "sign": lambda params: compsgd.SignSGD(params, 0.1, num_workers=2, count_usages=True),
    "vote": lambda params: compsgd.CompressedSGDVote(
        params, 0.1, num_workers=2, momentum=0.9, error_feedback=True, exempt_1d=True
    ),
}


def trained(make):
    """After two rounds, and with one worker's ballot of the third."""
    params = [torch.ones(2, 2), torch.ones(3)]
    optimizer = make(params)
    for round_ in range(3):
        for worker in range(2 if round_ < 2 else 1):
            for param in params:
                param.grad = torch.linspace(-1, worker + round_ + 1, param.numel()).view_as(param)
            optimizer.compress(worker)
        if round_ < 2:
            optimizer.step()
    return params, optimizer


def snapshot(optimizer):
    return copy.deepcopy(optimizer.state_dict())


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


@pytest.mark.parametrize("name", MAKES)
def test_mutated_states_go_on_or_change_nothing(name):
    _, source = trained(MAKES[name])
    saved = snapshot(source)
    params, optimizer = trained(MAKES[name])
    before = snapshot(optimizer)
    refused = []
    for _, mutated in mutations(saved):
        try:
            optimizer.load_state_dict(mutated)
        except SettingError as error:
            refused.append(str(error))
            assert_same(snapshot(optimizer), before)
            continue
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.compress(1)
        optimizer.step()
        params, optimizer = trained(MAKES[name])
    assert len(refused) > 100
    start = "this state_dict does not fit: "
    assert [one for one in refused if not one.startswith(start) or "\n" in one] == []


def vote():
    return trained(MAKES["vote"])[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["state"][0].pop("max.1"), r"no max of worker 1: state\[0\] has no 'max.1'"),
        (lambda s: s["state"][0].pop("step"), "no step"),
        (lambda s: s["state"][0].update(step=-1), r"state\[0\]\['step'\] is -1; it must be an int"),
        (lambda s: s["state"][1].update(step=7), r"\['step'\] is 7, and that of the first is 2"),
        (
            lambda s: s["state"][0].update({"min.0": torch.zeros(4)}),
            r"state\[0\]\['min.0'\] is a float32 tensor of shape \(4,\); .* of shape \(2, 2\)",
        ),
        (
            lambda s: s["state"][0].update({"min.0": torch.empty(2, 2, device="meta")}),
            r"\['min.0'\] is a float32 tensor of shape \(2, 2\) without values",
        ),
        (
            lambda s: s["state"][0].update({"pending main ballot.7": torch.zeros(2)}),
            "of a worker hosted elsewhere",
        ),
        (lambda s: s["param_groups"][0].update(lr=10**400), r"\[0\].lr is an integer of 1329 bits"),
        (lambda s: s["param_groups"][0].update(lr=math.nan), r"\[0\].lr is nan"),
        (lambda s: s["param_groups"][0].update(params=[0, 0]), "name a parameter twice"),
        (lambda s: s["param_groups"][0].update(params=[[], 0]), r"params\[0\] is \[\]"),
        (lambda s: s["param_groups"][0].update(exempt=True), "exempt is True; here it is None"),
        (lambda s: s.pop("state"), "it has no state"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    optimizer = vote()
    saved = snapshot(optimizer)
    change(saved)
    with pytest.raises(SettingError, match=message):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("state", [None, 5, [], "x", {}, {"state": [], "param_groups": {}}])
def test_what_is_no_state_at_all(state):
    with pytest.raises(SettingError, match=r"^this state_dict does not fit: "):
        vote().load_state_dict(state)


def test_an_unfinished_sum_says_of_how_many():
    params = [torch.zeros(3)]
    optimizer = compsgd.SGD(params, 0.1, num_workers=2)
    for worker in range(2):
        params[0].grad = torch.ones(3)
        optimizer.compress(worker)
    saved = snapshot(optimizer)
    del saved["state"][0]["pending main num_added"]
    with pytest.raises(SettingError, match="of how many gradients"):
        optimizer.load_state_dict(saved)


def test_what_was_of_another_float_type_is_taken():
    optimizer = vote()
    saved = snapshot(optimizer)
    saved["state"][0]["max.0"] = saved["state"][0]["max.0"].double()
    optimizer.load_state_dict(saved)
    assert optimizer.worker_range(0)[0].dtype == torch.float32

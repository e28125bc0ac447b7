"""Argument checks: what they take, and that they name what they do not."""

import numpy as np
import pytest
import torch

from compsgd import checks
from compsgd.errors import SettingError


def test_integers_of_any_kind_become_int():
    for value in (3, np.int64(3), np.uint8(3)):
        assert type(checks.check_integer("n", value, 0)) is int


@pytest.mark.parametrize("value", [-1, 6, 2.0, "2", None, True, torch.tensor(2)])
def test_what_is_no_integer_in_bounds(value):
    with pytest.raises(SettingError, match=r"n is .*; it must be an integer from 0 to 5"):
        checks.check_integer("n", value, 0, 5)


def test_a_bound_that_is_not_there_is_not_named():
    with pytest.raises(SettingError, match=r"n is -1; it must be an integer of at least 0$"):
        checks.check_integer("n", -1, 0)
    assert checks.check_integer("n", 10**30, 0) == 10**30


@pytest.mark.parametrize("value", [0, 0.0, 1e-3, np.float32(0.5), torch.tensor(0.5), 3e38])
def test_learning_rates(value):
    assert checks.check_lr(value) == float(value)


@pytest.mark.parametrize("value", [-1, 1e-39, 4e38, float("nan"), "0.1", True, torch.zeros(2)])
def test_what_is_no_learning_rate(value):
    with pytest.raises(SettingError, match=r"^lr is "):
        checks.check_lr(value)


@pytest.mark.parametrize("value", [0, 1.5, -0.5, float("nan"), None, True])
def test_what_is_no_decay(value):
    with pytest.raises(SettingError, match=r"d is .*; it must be a number in \(0, 1\]"):
        checks.check_decay("d", value)


def test_flags_tensors_and_choices():
    assert checks.check_flag("f", False) is False
    assert checks.check_choice("c", "a", {"a": 1, "b": 2}) == "a"
    tensor = torch.zeros(1)
    assert checks.check_tensor("t", tensor) is tensor
    with pytest.raises(SettingError, match="f is 0; it must be True or False"):
        checks.check_flag("f", 0)
    with pytest.raises(SettingError, match="c is 'x'; it must be one of a, b"):
        checks.check_choice("c", "x", {"a": 1, "b": 2})
    with pytest.raises(SettingError, match=r"t is a list; it must be a torch\.Tensor"):
        checks.check_tensor("t", [1])

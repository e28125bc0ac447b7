"""The hook's state without processes: what it takes, and what it refuses."""

import pytest
import torch

from compsgd.comm import VoteState
from compsgd.errors import CompsgdError

RANGES = {"max": torch.zeros(6), "min": torch.zeros(6)}
SAVED = {"iteration": 3, "memory": RANGES, "settings": VoteState().settings.lasting()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "mean"}, "scale is 'mean'"),
        ({"scale": 10**400}, "scale is an integer of 1329 bits"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"num_bits": 9}, "num_bits is 9"),
        ({"timeout_s": "x"}, "timeout_s is 'x'"),
        ({"timeout_s": float("inf")}, "timeout_s is inf"),
        ({"params": 5}, "params is a int"),
        ({"params": [1]}, "params holds a int"),
        ({"params": []}, "no parameter needs a gradient"),
        ({"params": [torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))]}, "complex"),
    ],
)
def test_arguments_out_of_bounds(arguments, message):
    with pytest.raises(CompsgdError, match=message):
        VoteState(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "no settings"),
        (5, "no settings"),
        ({"settings": None}, "no settings"),
        ({"iteration": -5}, "iteration is -5"),
        ({"iteration": "x"}, "iteration is 'x'"),
        ({"memory": {"max": torch.zeros(6)}}, "not float32 vectors named max, min"),
        ({"memory": {"max": torch.zeros(5), "min": torch.zeros(5)}}, "5 elements.*have 6"),
        ({"settings": SAVED["settings"] | {"num_bits": 4}}, "num_bits=4; here it is 3"),
    ],
)
def test_saved_states_that_do_not_fit_change_nothing(change, message):
    state = VoteState(params=[torch.nn.Parameter(torch.zeros(2, 3))])
    saved = SAVED | change if isinstance(change, dict) else change
    with pytest.raises(CompsgdError, match=message):
        state.load_state_dict(saved)
    assert state.state_dict() == {"iteration": 0, "memory": None} | {"settings": SAVED["settings"]}


def test_a_state_keeps_its_range_when_it_gets_its_parameters_later():
    state = VoteState()
    state.load_state_dict(SAVED)
    state.params = [torch.nn.Parameter(torch.zeros(6))]
    assert state.state_dict()["memory"] is RANGES
    with pytest.raises(CompsgdError, match="6 elements"):
        state.params = [torch.nn.Parameter(torch.zeros(7))]


def test_a_state_that_is_not_used_watches_nothing():
    parameter = torch.nn.Parameter(torch.zeros(3))
    state = VoteState(params=[parameter])
    assert len(parameter._post_accumulate_grad_hooks) == 1
    state.release()
    assert not parameter._post_accumulate_grad_hooks

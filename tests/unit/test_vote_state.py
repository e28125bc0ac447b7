"""The hook's state without processes: what it takes, and what it refuses."""

import pytest
import torch
from mutations import mutations

from compsgd.comm import VoteState
from compsgd.errors import CompsgdError, SettingError

RANGES = {"max": torch.zeros(6), "min": torch.zeros(6)}
SAVED = {
    "iteration": 3,
    "rank": 0,
    "memory": RANGES,
    "settings": VoteState().settings.lasting(),
}
FRESH = {"iteration": 0, "rank": None, "memory": None, "settings": SAVED["settings"]}


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
        ({"params": [torch.nn.Parameter(torch.zeros(2, device="meta"))]}, "on the meta device"),
        ({"params": [torch.zeros(1).expand(3).requires_grad_()]}, "expanded"),
        ({"params": torch.nn.LazyLinear(2).parameters()}, "no shape yet"),
    ],
)
def test_arguments_out_of_bounds(arguments, message):
    with pytest.raises(CompsgdError, match=message):
        VoteState(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "it is None; it must be a mapping with settings"),
        (5, "it is 5; it must be a mapping"),
        ({"settings": None}, "settings is None"),
        ({"iteration": -5}, "iteration is -5"),
        ({"iteration": "x"}, "iteration is 'x'"),
        ({"rank": -1}, "rank is -1"),
        ({"memory": {"max": torch.zeros(6)}}, "memory has no min"),
        ({"memory": RANGES | {"error": torch.zeros(6)}}, "memory has a field 'error'"),
        ({"memory": RANGES | {"min": torch.zeros(6, device="meta")}}, "memory.min is a float32"),
        ({"memory": {"max": torch.zeros(5), "min": torch.zeros(5)}}, "5 elements.*have 6"),
        ({"settings": SAVED["settings"] | {"num_bits": 4}}, "num_bits=4; here it is 3"),
    ],
)
def test_saved_states_that_do_not_fit_change_nothing(change, message):
    state = VoteState(params=[torch.nn.Parameter(torch.zeros(2, 3))])
    saved = SAVED | change if isinstance(change, dict) else change
    with pytest.raises(CompsgdError, match=message):
        state.load_state_dict(saved)
    assert state.state_dict() == FRESH


def test_any_value_in_a_saved_state_is_taken_or_named():
    refused = []
    for _, mutated in mutations(SAVED):
        state = VoteState(params=[torch.nn.Parameter(torch.zeros(2, 3))])
        try:
            state.load_state_dict(mutated)
        except SettingError as error:
            refused.append(str(error))
            assert state.state_dict() == FRESH
    assert len(refused) > 200
    assert [one for one in refused if not one.startswith("this state_dict does not fit: ")] == []


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

"""`compsgd.VoteAggregator` in a process alone: what it takes, and what it refuses."""

import pytest
import torch

import compsgd
from compsgd import SettingError


def parameters():
    return [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_bits": 9}, "num_bits is 9"),
        ({"scale": "mean"}, "scale is 'mean'"),
        ({"exchange": "ring"}, "exchange is 'ring'"),
        ({"exchange": 5}, "exchange is 5"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"start_vote_iter": 3}, "VoteAggregator has no setting start_vote_iter"),
        ({"lr": 0.1}, "VoteAggregator has no setting lr"),
        ({"settings": compsgd.VoteSettings(strict=True)}, "VoteAggregator has no setting strict"),
        ({"settings": {"num_bits": 3}}, "settings is a dict"),
        ({"params": 5}, "params is a int"),
        ({"params": torch.zeros(3)}, "params is a Tensor"),
        ({"params": [1]}, "params holds a int"),
        ({"params": []}, "no parameter needs a gradient"),
        ({"params": [torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))]}, "complex"),
    ],
)
def test_arguments_out_of_bounds(arguments, message):
    with pytest.raises(SettingError, match=message):
        compsgd.VoteAggregator(**{"params": parameters()} | arguments)


def test_settings_to_start_from():
    settings = compsgd.VoteSettings(num_bits=1, seed=4)
    aggregator = compsgd.VoteAggregator(parameters(), settings, seed=5)
    assert (aggregator.settings.num_bits, aggregator.settings.seed) == (1, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": None}, "settings is None"),
        ({"iteration": -5}, "iteration is -5"),
        ({"memory": {"max": torch.zeros(10)}}, "memory has no min"),
        ({"memory": {"max": torch.zeros(9), "min": torch.zeros(9)}}, "9 elements.*have 10"),
        ({"settings": compsgd.VoteSettings(num_bits=4).lasting()}, "num_bits=4; here it is 3"),
    ],
)
def test_saved_states_that_do_not_fit_change_nothing(change, message):
    aggregator = compsgd.VoteAggregator(parameters())
    saved = aggregator.state_dict()
    with pytest.raises(SettingError, match=message):
        aggregator.load_state_dict(saved | change)
    assert aggregator.state_dict() == saved


def test_a_process_alone_votes_by_itself():
    weights = parameters()
    aggregator = compsgd.VoteAggregator(weights, exempt_1d=True)
    assert aggregator.summary() == "no step yet"
    for weight in weights:
        weight.grad = torch.linspace(-1, 2, weight.numel()).view(weight.shape)
    aggregator.aggregate()
    assert weights[0].grad.flatten().tolist() == [-4, -4, 4, 4, 4, 4]
    assert torch.equal(weights[1].grad, torch.linspace(-1, 2, 4))
    assert aggregator.bytes_per_step == 0
    assert aggregator.compression_rate is None

"""A machine is measured by the code that users run; what comes out is plausible, not checked."""

import pytest
import torch

from compsgd.workers.prediction import calibration
from compsgd.workers.prediction.calibration import calibrate, model_step_s


@pytest.fixture
def _few_repeats(monkeypatch):
    monkeypatch.setattr(calibration, "_REPEATS", 1)


@pytest.mark.usefixtures("_few_repeats")
def test_everything_is_measured_with_one_thread_and_threads_are_as_before():
    before = torch.get_num_threads()
    machine = calibrate([1, 3], 20_000)
    assert set(machine.votes) == {1, 3}
    assert all(one.encode_s > 0 for one in machine.votes.values())
    assert all(value >= 0 for one in machine.votes.values() for value in vars(one).values())
    assert all(
        value > 0 for name, value in vars(machine).items() if name not in ("votes", "socket_s")
    )
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("_few_repeats")
def test_a_step_of_a_model_takes_time():
    assert model_step_s("mlp", "MNIST", 2) > 0

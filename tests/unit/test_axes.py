"""After which steps values were taken: as recorded, or as many an epoch."""

import numpy as np
import pytest

from compsgd.errors import SettingError
from compsgd.history.axes import line, metric_names, steps_of

BY_EPOCH = {
    "avg_epoch_loss_hist": [2.0, 1.0],
    "test_acc_hist": [50.0, 60.0],
    "bytes_sent_hist": [10**6] * 6,
    "seconds_hist": [1.0] * 6,
}
# 5 steps of epochs of 2.
BY_STEPS = {
    "avg_epoch_loss_hist": [3.0, 2.0, 1.0],
    "epoch_step_hist": [2, 4, 5],
    "test_acc_hist": [50.0, 60.0],
    "test_step_hist": [3, 5],
    "bytes_sent_hist": [10**6] * 5,
    "seconds_hist": [1.0] * 5,
    "wire_bytes_sent_hist": [4, 4, 2],
}


def places(history, metric, x):
    return line(history, metric, x, None)[0].tolist()


@pytest.mark.parametrize("metric", ["avg_epoch_loss_hist", "test_acc_hist"])
def test_nothing_recorded_is_one_value_an_epoch(metric):
    assert places(BY_EPOCH, metric, "epochs") == [1, 2]
    assert places(BY_EPOCH, metric, "steps") == [3, 6]
    assert places(BY_EPOCH, metric, "bytes") == [3, 6]


@pytest.mark.parametrize(
    ("metric", "steps"),
    [
        ("avg_epoch_loss_hist", [2, 4, 5]),
        ("wire_bytes_sent_hist", [2, 4, 5]),
        ("test_acc_hist", [3, 5]),
        ("seconds_hist", [1, 2, 3, 4, 5]),
    ],
)
def test_recorded_steps_count(metric, steps):
    assert steps_of(BY_STEPS, metric).tolist() == steps
    assert places(BY_STEPS, metric, "steps") == steps
    assert places(BY_STEPS, metric, "epochs") == [step / 2 for step in steps]
    assert places(BY_STEPS, metric, "bytes") == places(BY_STEPS, metric, "seconds") == steps


def test_evaluations_between_whole_epochs():
    history = BY_EPOCH | {"test_step_hist": [4, 6]}
    assert places(history, "test_acc_hist", "epochs") == pytest.approx([4 / 3, 2])
    assert places(history, "avg_epoch_loss_hist", "epochs") == [1, 2]


def test_steps_are_no_metric():
    history = BY_STEPS | {"bin_usage": np.empty(0)}
    assert not [name for name in metric_names(history) if name.endswith("step_hist")]


@pytest.mark.parametrize(
    ("change", "metric", "x", "reason"),
    [
        ({"test_step_hist": [3]}, "test_acc_hist", "steps", "not as many test_step_hist"),
        ({"test_step_hist": 3.0}, "test_acc_hist", "epochs", "not as many test_step_hist"),
        ({"test_step_hist": [3, 6]}, "test_acc_hist", "bytes", "of 5 steps"),
        ({"test_step_hist": [-1, 5]}, "test_acc_hist", "seconds", "of 5 steps"),
        ({"test_step_hist": [np.nan, 5]}, "test_acc_hist", "seconds", "of 5 steps"),
        ({"seconds_hist": 1.0}, "test_acc_hist", "seconds", "it has no seconds_hist"),
        ({"test_acc_hist": 1.0}, "test_acc_hist", "steps", "there is no metric test_acc_hist"),
    ],
)
def test_a_file_of_parts_that_do_not_fit(change, metric, x, reason):
    with pytest.raises(SettingError, match=reason):
        places(BY_STEPS | change, metric, x)


def test_a_file_that_has_no_epochs():
    history = {"test_acc_hist": [1.0], "bytes_sent_hist": [1], "avg_epoch_loss_hist": []}
    with pytest.raises(SettingError, match="how many steps an epoch has"):
        places(history, "test_acc_hist", "steps")

"""After which steps values were taken: as recorded, or as many an epoch."""

import numpy as np
import pytest

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

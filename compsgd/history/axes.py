"""When the values of a history were taken: in steps, epochs, seconds, or bytes sent."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compsgd.errors import SettingError
from compsgd.history.histories import History

Vector = npt.NDArray[np.float64]

_OF_EPOCHS = ("avg_epoch_", "wire_bytes_", "kernel_bytes_")
# Metrics that have a value for each epoch, where nothing says after which steps they were taken.
_PER_EPOCH = (*_OF_EPOCHS, "test_")
# What says it, by how the metrics' names begin.
_STEPS_OF = {
    "batch_": "batch_step_hist",
    "cosine_": "diagnosis_step_hist",
    "test_": "test_step_hist",
    **dict.fromkeys(_OF_EPOCHS, "epoch_step_hist"),
}
_MEGA = 1e6


def metric_names(history: History) -> list[str]:
    """The metrics that are a number at a time, and that a line can be drawn of."""
    return [name for name, values in history.items() if _is_line(name, values)]


def line(history: History, metric: str, x: str, steps_between: int | None) -> tuple[Vector, Vector]:
    """A metric, and when its values were taken.

    Args:
        history: of one cell.
        metric: its name; see metric_names.
        x: "steps", "epochs", "seconds", "bytes" for megabytes sent, or "evaluations".
        steps_between: how many steps lie between two values of a batch metric, for histories that
            do not tell, as the original code wrote them.

    Returns:
        when, in steps, epochs, seconds, megabytes or evaluations, and the values; float64, shape
        (values,) each.

    Raises:
        SettingError: no such metric, or the history does not hold what x needs, or not of as many
            steps.
    """
    values = _values(history, metric)
    if x == "evaluations":
        return np.arange(1.0, len(values) + 1), values
    if x == "epochs" and metric.startswith(_PER_EPOCH) and _step_metric(metric) not in history:
        return np.arange(1.0, len(values) + 1), values
    steps = _steps(history, metric, len(values), steps_between)
    place: Vector = _AXES[x](history, steps)
    return place, values


def usual_x(histories: Sequence[History], metric: str, steps_between: int | None) -> str:
    """What a metric of all of them can be drawn over: "steps", or else "epochs", or else
    "evaluations".
    """
    for x in ("steps", "epochs"):
        if all(_has_x(history, metric, x, steps_between) for history in histories):
            return x
    return "evaluations"


def _has_x(history: History, metric: str, x: str, steps_between: int | None) -> bool:
    try:
        line(history, metric, x, steps_between)
    except SettingError:
        return False
    return True


def steps_of(history: History, metric: str) -> Vector:
    """After which step each value of a metric was taken.

    Raises:
        SettingError: no such metric, or the history does not tell.
    """
    return _steps(history, metric, len(_values(history, metric)), None)


def _values(history: History, metric: str) -> Vector:
    known = metric_names(history)
    if metric not in known:
        raise SettingError(f"there is no metric {metric}; there are {', '.join(known)}")
    return np.asarray(history[metric], dtype=np.float64)


def _is_line(name: str, values: Any) -> bool:
    is_one = name.endswith("_hist") and not name.endswith("_step_hist")
    return is_one and np.ndim(values) == 1 and len(values) > 0


def _steps(history: History, metric: str, count: int, steps_between: int | None) -> Vector:
    """After which step each value was taken."""
    step_metric = _step_metric(metric)
    if step_metric in history:
        steps = np.asarray(history[step_metric], dtype=np.float64)
        if steps.shape != (count,):
            raise SettingError(f"it has {count} values of {metric}, but not as many {step_metric}")
        return steps
    if metric.startswith(_PER_EPOCH):
        return np.arange(1.0, count + 1) * _steps_per_epoch(history)
    if step_metric is None:
        return np.arange(1.0, count + 1)
    if steps_between is None:
        raise SettingError(
            f"it does not say after which steps {metric} was taken; give the steps between two "
            "values (--steps_between)"
        )
    return np.arange(1.0, count + 1) * steps_between


def _step_metric(metric: str) -> str | None:
    """What says after which steps a metric was taken; None for one that has a value a step."""
    return next((at for start, at in _STEPS_OF.items() if metric.startswith(start)), None)


def _steps_per_epoch(history: History) -> float:
    """Raises SettingError where nothing was recorded by step."""
    if _count(history, "epoch_step_hist"):
        # The last epoch may be a part of one.
        return float(np.ravel(history["epoch_step_hist"])[0])
    for by_step in ("bytes_sent_hist", "bin_usage"):
        num_steps, num_epochs = _count(history, by_step), _count(history, "avg_epoch_loss_hist")
        if num_steps and num_epochs:
            return num_steps / num_epochs
    raise SettingError("it does not say how many steps an epoch has; take epochs as x")


def _count(history: History, metric: str) -> int:
    """How many values there are of a metric; none of a single number."""
    values = history.get(metric, ())
    return len(values) if np.ndim(values) else 0


def _epochs(history: History, steps: Vector) -> Vector:
    return steps / _steps_per_epoch(history)


def _summed(metric: str, unit: float, history: History, steps: Vector) -> Vector:
    if not _count(history, metric):
        raise SettingError(f"it has no {metric}, which this x needs")
    total = np.concatenate([[0.0], np.cumsum(np.asarray(history[metric], dtype=np.float64))])
    if not ((steps >= 0) & (steps < len(total))).all():
        raise SettingError(f"it has {metric} of {len(total) - 1} steps, which are not all it needs")
    at: Vector = total[steps.astype(int)] / unit
    return at


_AXES: Mapping[str, Any] = {
    "steps": lambda history, steps: steps,
    "epochs": _epochs,
    "seconds": lambda history, steps: _summed("seconds_hist", 1.0, history, steps),
    "bytes": lambda history, steps: _summed("bytes_sent_hist", _MEGA, history, steps),
}

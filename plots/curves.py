"""Lines from any histories: one a run, or the mean and spread of several."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compsgd.errors import CompsgdError
from compsgd.history import History
from compsgd.history.axes import Vector, line, usual_x
from compsgd.plots.style import (
    add_legend,
    count_in_whole_numbers,
    drawable,
    in_paper_style,
    line_style,
    new_figure,
)

X_LABELS = {
    "steps": "step",
    "epochs": "epoch",
    "evaluations": "evaluation",
    "seconds": "training time (s)",
    "bytes": "gradient bytes sent by a worker (MB)",
}
# So many points are more than a column of paper can show; beyond, neighbours are averaged.
_MOST_POINTS = 1000
_FEW_POINTS = 50
_NAMES = {"cosine_hist": "cosine to the mean gradient"}
_COSINES = ("cosine_hist",)
_UNITS = {"loss": "nats", "acc": "%"}


class Run(NamedTuple):
    """A cell of a histories file, and what it is called.

    Attributes:
        label: for the legend.
        history: {metric: a list of numbers, or a numpy array}.

    Examples:
        >>> from compsgd.plots import Run
        >>> Run("lr 0.1", {"test_acc_hist": [97.5, 98.0]}).label
        'lr 0.1'
    """

    label: str
    history: History


@in_paper_style
def curves_figure(
    runs: Sequence[Run],
    metric: str,
    *,
    x: str | None = None,
    title: str = "",
    x_label: str | None = None,
    y_label: str | None = None,
    steps_between: int | None = None,
) -> Figure:
    """A line a run.

    Args:
        runs: what is drawn, in the order of the legend.
        metric: its name, as `compsgd plot list` shows them.
        x: "steps", "epochs", "seconds" of training, "bytes" for megabytes that a worker sent, or
            "evaluations", which counts the values. None for steps if all runs tell them, or else
            epochs, or else evaluations.
        title: above the figure.
        x_label, y_label: in place of the usual.
        steps_between: how many steps lie between two values of a batch metric, for histories that
            do not tell, as those of the original code.

    Returns:
        the figure, with one axis.

    Raises:
        CompsgdError: an x that there is not; a run without the metric, or without what x needs,
            which it names.

    Examples:
        >>> from compsgd.plots import Run, curves_figure
        >>> run = Run("lr 0.1", {"test_acc_hist": [97.5, 98.0]})
        >>> (axis,) = curves_figure([run], "test_acc_hist", x="epochs").axes
        >>> axis.get_xlabel(), axis.get_ylabel()
        ('epoch', 'test accuracy (%)')
        >>> axis.lines[0].get_ydata().tolist()
        [97.5, 98.0]
    """
    figure, (axis,) = new_figure(1, 1, title)
    x = x or usual_x([run.history for run in runs], metric, steps_between)
    name_axes(axis, metric, x, x_label, y_label)
    for i, run in enumerate(runs):
        draw_run(axis, i, run, metric, x, steps_between)
    add_legend(figure, [axis])
    return figure


@in_paper_style
def average_figure(
    groups: Sequence[tuple[str, Sequence[Run]]],
    metric: str,
    *,
    x: str | None = None,
    title: str = "",
    x_label: str | None = None,
    y_label: str | None = None,
    steps_between: int | None = None,
) -> Figure:
    """A line a group, of the means over its runs, in a band from the smallest to the largest.

    Args:
        groups: what each is called, and its runs, as of several seeds; as many values in each.
        metric: its name, as `compsgd plot list` shows them.
        x: see curves_figure.
        title: above the figure.
        x_label, y_label: in place of the usual.
        steps_between: how many steps lie between two values of a batch metric, for histories that
            do not tell, as those of the original code.

    Returns:
        the figure, with one axis.

    Raises:
        CompsgdError: an x that there is not; a run without the metric, or without what x needs;
            runs of a group that are of different lengths.

    Examples:
        >>> from compsgd.plots import Run, average_figure
        >>> seeds = [Run(f"seed {i}", {"test_acc_hist": [96.0, 97.0 + i]}) for i in range(3)]
        >>> (axis,) = average_figure([("vote", seeds)], "test_acc_hist", x="epochs").axes
        >>> axis.lines[0].get_label(), axis.lines[0].get_ydata().tolist()
        ('vote (mean of 3)', [96.0, 98.0])
    """
    figure, (axis,) = new_figure(1, 1, title)
    histories = [run.history for _, runs in groups for run in runs]
    x = x or usual_x(histories, metric, steps_between)
    name_axes(axis, metric, x, x_label, y_label)
    for i, (label, runs) in enumerate(groups):
        lines = [_line(run, metric, x, steps_between) for run in runs]
        lengths = {len(y) for _, y in lines}
        if len(lengths) > 1:
            raise CompsgdError(
                f"the runs of {label} have {' and '.join(map(str, sorted(lengths)))} values of "
                f"{metric}; a mean needs equally many"
            )
        place = np.mean([line_x for line_x, _ in lines], axis=0)
        values = np.stack([y for _, y in lines])
        name = f"{label} (mean of {len(runs)})"
        draw_line(axis, i, name, place, values.mean(axis=0))
        style = line_style(i)
        axis.fill_between(
            place, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2,
            linewidth=0,
        )  # fmt: skip
    _show_all_that_may_be(axis, metric)
    add_legend(figure, [axis])
    return figure


def draw_run(
    axis: Axes, index: int, run: Run, metric: str, x: str, steps_between: int | None = None
) -> None:
    """The index-th line of an axis.

    Args:
        axis: drawn on.
        index: from 0; decides about colour and dashes.
        run: what is drawn.
        metric, x, steps_between: see curves_figure.

    Raises:
        CompsgdError: a run without the metric, or without what x needs.
    """
    draw_line(axis, index, run.label, *_line(run, metric, x, steps_between))
    _show_all_that_may_be(axis, metric)


def _show_all_that_may_be(axis: Axes, metric: str) -> None:
    """Of a cosine, whose differences seem large where its axis is cut."""
    if metric in _COSINES:
        lowest = min(np.nanmin(line.get_ydata(), initial=0.0) for line in axis.lines)
        axis.set_ylim(-1 if lowest < 0 else 0, 1)


def name_axes(
    axis: Axes, metric: str, x: str, x_label: str | None = None, y_label: str | None = None
) -> None:
    """Says what an axis of lines shows.

    Args:
        axis: named.
        metric, x: see curves_figure.
        x_label, y_label: in place of the usual.

    Raises:
        CompsgdError: an x that there is not.
    """
    if x not in X_LABELS:
        raise CompsgdError(f"x is {x!r}; it must be one of {', '.join(X_LABELS)}")
    axis.set_xlabel(drawable(X_LABELS[x] if x_label is None else x_label))
    axis.set_ylabel(drawable(metric_label(metric) if y_label is None else y_label))
    axis.grid(alpha=0.3)
    if x in ("steps", "epochs", "evaluations"):
        count_in_whole_numbers(axis)


def _line(run: Run, metric: str, x: str, steps_between: int | None) -> tuple[Vector, Vector]:
    try:
        return line(run.history, metric, x, steps_between)
    except CompsgdError as error:
        raise CompsgdError(f"{run.label}: {error}") from error


def metric_label(metric: str) -> str:
    """A metric in words, with its unit."""
    if metric in _NAMES:
        return _NAMES[metric]
    words = metric.removesuffix("_hist").split("_")
    unit = next((_UNITS[word] for word in words if word in _UNITS), None)
    name = " ".join("accuracy" if word == "acc" else word for word in words)
    return name if unit is None else f"{name} ({unit})"


def draw_line(axis: Axes, index: int, label: str, x: Vector, y: Vector) -> None:
    """The index-th line of an axis, which marks its points if they are few."""
    x, y = _thinned(x), _thinned(y)
    marker = "." if len(x) <= _FEW_POINTS else None
    axis.plot(x, y, label=label, marker=marker, **line_style(index))


def _thinned(values: Vector) -> Vector:
    """Means of neighbours, where there are more values than can be seen."""
    if len(values) <= _MOST_POINTS:
        return values
    edges = np.linspace(0, len(values), _MOST_POINTS + 1).astype(int)
    means: Vector = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    return means

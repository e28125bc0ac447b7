"""The six figures of every experiment."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compsgd.history import Histories, History
from compsgd.plots.style import (
    add_legend,
    grid_shape,
    level_colours,
    line_style,
    new_figure,
    save_figure,
)

Cell = tuple[float, float]
Labels = Mapping[Cell, str]
Points = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

_LOSS = "cross-entropy (nats)"
_ACCURACY = "accuracy (%)"
_USAGE_COLUMNS = 400
_MOST_LABELLED = 8


class CurvePlot(NamedTuple):
    """A figure of one line a cell."""

    file_name: str
    title: str
    x_label: str
    y_label: str
    points: Callable[[History], Points]


def _by_epoch(metric: str) -> Callable[[History], Points]:
    def points(history: History) -> Points:
        values = np.asarray(history[metric], dtype=float)
        return np.arange(1, len(values) + 1, dtype=float), values

    return points


def _by_step(metric: str) -> Callable[[History], Points]:
    def points(history: History) -> Points:
        return (
            np.asarray(history["batch_step_hist"], dtype=float),
            np.asarray(history[metric], dtype=float),
        )

    return points


def _accuracy_by_bytes(history: History) -> Points:
    accuracy = np.asarray(history["test_acc_hist"], dtype=float)
    sent = np.cumsum(np.asarray(history["bytes_sent_hist"], dtype=float)) / 1e6
    steps_per_epoch = len(sent) // len(accuracy)
    return sent[steps_per_epoch - 1 :: steps_per_epoch], accuracy


CURVES = (
    CurvePlot("avg_epoch_loss.png", "Training loss by epoch", "epoch", _LOSS,
              _by_epoch("avg_epoch_loss_hist")),
    CurvePlot("avg_epoch_acc.png", "Training accuracy by epoch", "epoch", _ACCURACY,
              _by_epoch("avg_epoch_acc_hist")),
    CurvePlot("batch_loss.png", "Training loss by step", "step", _LOSS,
              _by_step("batch_loss_hist")),
    CurvePlot("batch_acc.png", "Training accuracy by step", "step", _ACCURACY,
              _by_step("batch_acc_hist")),
    CurvePlot("test_acc_by_bytes.png", "Test accuracy by traffic",
              "gradient bytes sent by a worker (MB)", _ACCURACY, _accuracy_by_bytes),
)  # fmt: skip


_USAGE_NAME = "bin_usage.png"
PLOT_NAMES = (*(plot.file_name for plot in CURVES), _USAGE_NAME)


def draw_experiment(
    histories: Histories, labels: Labels, folder: Path, *, title: str, one_axis: bool
) -> list[Path]:
    """Draws an experiment's figures as PNG.

    Args:
        histories: of every cell of the sweep.
        labels: what each cell is called.
        folder: where the files go.
        title: stands above every figure, after its own.
        one_axis: all cells in one axis, or one axis each.

    Returns:
        the paths of the files.
    """
    paths = []
    for plot in CURVES:
        figure = curve_figure(histories, labels, plot, title, one_axis)
        paths.append(save_figure(figure, folder / plot.file_name))
    figure = usage_figure(histories, labels, title, one_axis)
    return [*paths, save_figure(figure, folder / _USAGE_NAME)]


def curve_figure(
    histories: Histories, labels: Labels, plot: CurvePlot, title: str, one_axis: bool
) -> Figure:
    rows, columns = (1, 1) if one_axis else grid_shape(len(histories))
    figure, axes = new_figure(rows, columns, f"{plot.title}\n{title}")
    for index, (cell, history) in enumerate(histories.items()):
        axis = axes[0] if one_axis else axes[index]
        x, y = plot.points(history)
        marker = "." if len(x) <= 50 else None
        style = line_style(index if one_axis else 0)
        axis.plot(x, y, label=labels[cell], marker=marker, **style)
        _name_axis(axis, labels[cell], len(axes))
    for axis in axes[: 1 if one_axis else len(histories)]:
        axis.set_xlabel(plot.x_label)
        axis.set_ylabel(plot.y_label)
        axis.grid(alpha=0.3)
    _hide_unused(axes, 1 if one_axis else len(histories))
    if one_axis:
        add_legend(figure, axes)
    return figure


def usage_figure(histories: Histories, labels: Labels, title: str, one_axis: bool) -> Figure:
    """How the elements of the updates spread over the levels.

    One axis a cell shows the shares over the steps, stacked; in one axis for all cells, where
    stacks cannot lie on top of each other, a line a cell shows its mean shares by level.
    """
    heading = f"Bin usage\n{title}"
    counted = {cell: h["bin_usage"] for cell, h in histories.items() if h["bin_usage"].ndim == 2}
    if not counted:
        figure, (axis,) = new_figure(1, 1, heading)
        axis.set_axis_off()
        axis.text(0.5, 0.5, "not counted (--count_usages true counts it)", ha="center")
        return figure
    if one_axis:
        return _mean_usage_figure(counted, labels, heading)
    figure, axes = new_figure(*grid_shape(len(counted)), heading)
    for axis, (cell, usage) in zip(axes, counted.items(), strict=False):
        stack_usage(axis, usage)
        _name_axis(axis, labels[cell], len(axes))
    _hide_unused(axes, len(counted))
    add_legend(figure, axes)
    return figure


def stack_usage(axis: Axes, usage: npt.NDArray[np.int64]) -> None:
    """Shares of the levels, averaged over neighbouring steps where there are thousands."""
    num_columns = min(len(usage), _USAGE_COLUMNS)
    edges = np.linspace(0, len(usage), num_columns + 1).astype(int)
    summed = np.add.reduceat(usage, edges[:-1], axis=0)
    shares = 100 * summed / summed.sum(axis=1, keepdims=True)
    # Each column reaches from its first step to its last.
    x = np.repeat(edges, 2)[1:-1]
    levels = _levels(usage)
    axis.stackplot(
        x,
        np.repeat(shares, 2, axis=0).T,
        labels=[_level_label(level, levels[-1]) for level in levels],
        colors=level_colours(len(levels)),
        linewidth=0,
    )
    axis.set_xlim(0, len(usage))
    axis.set_ylim(0, 100)
    axis.set_xlabel("step")
    axis.set_ylabel("elements of the update (%)")


def _level_label(level: int, largest: int) -> str:
    """Of many levels the legend has room for a few: the ends, the halves and 0."""
    if largest > _MOST_LABELLED and level not in (
        -largest,
        -largest // 2,
        0,
        largest // 2,
        largest,
    ):
        return "_nolegend_"
    return f"{level:+d}" if level else "0"


def _mean_usage_figure(
    counted: dict[Cell, npt.NDArray[np.int64]], labels: Labels, heading: str
) -> Figure:
    figure, (axis,) = new_figure(1, 1, heading)
    for index, (cell, usage) in enumerate(counted.items()):
        shares = 100 * usage.sum(axis=0) / usage.sum()
        axis.plot(_levels(usage), shares, marker="o", label=labels[cell], **line_style(index))
    axis.set_xlabel("level")
    axis.set_ylabel("elements of all updates (%)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    add_legend(figure, [axis])
    return figure


def _levels(usage: npt.NDArray[np.int64]) -> list[int]:
    largest = usage.shape[1] // 2
    return list(range(-largest, largest + 1))


def _name_axis(axis: Axes, name: str, num_axes: int) -> None:
    """Says which cell an axis of several shows; an axis alone has the figure's title."""
    if num_axes > 1:
        axis.set_title(name, fontsize="medium")


def _hide_unused(axes: list[Axes], used: int) -> None:
    for axis in axes[used:]:
        axis.set_axis_off()

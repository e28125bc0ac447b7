"""The six figures of every experiment, and two more of a diagnosis."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compsgd.history import Histories
from compsgd.plots.agreement import agreement_figure, mean_majority_figure
from compsgd.plots.curves import Run, draw_run, name_axes
from compsgd.plots.stacks import stack_shares
from compsgd.plots.style import (
    add_legend,
    grid_shape,
    in_paper_style,
    level_colours,
    line_style,
    new_figure,
    save_figure,
)

Cell = tuple[float, float]
Labels = Mapping[Cell, str]


class CurvePlot(NamedTuple):
    """A figure of one line a cell; metric and x as for curves_figure."""

    file_name: str
    title: str
    metric: str
    x: str


CURVES = (
    CurvePlot("avg_epoch_loss.png", "Training loss by epoch", "avg_epoch_loss_hist", "epochs"),
    CurvePlot("avg_epoch_acc.png", "Training accuracy by epoch", "avg_epoch_acc_hist", "epochs"),
    CurvePlot("batch_loss.png", "Training loss by step", "batch_loss_hist", "steps"),
    CurvePlot("batch_acc.png", "Training accuracy by step", "batch_acc_hist", "steps"),
    CurvePlot("test_acc_by_bytes.png", "Test accuracy by traffic", "test_acc_hist", "bytes"),
)
COSINE = CurvePlot("cosine.png", "Direction of the update", "cosine_hist", "steps")

_USAGE_NAME = "bin_usage.png"
_AGREEMENT_NAME = "agreement.png"
PLOT_NAMES = (
    *(plot.file_name for plot in CURVES), _USAGE_NAME, COSINE.file_name, _AGREEMENT_NAME
)  # fmt: skip


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
    figures = {
        plot.file_name: curve_figure(histories, labels, plot, title, one_axis) for plot in CURVES
    }
    figures[_USAGE_NAME] = usage_figure(histories, labels, title, one_axis)
    diagnosed = {cell: h for cell, h in histories.items() if len(h.get(COSINE.metric, ()))}
    if diagnosed:
        figures[COSINE.file_name] = curve_figure(diagnosed, labels, COSINE, title, one_axis)
        draw = mean_majority_figure if one_axis else agreement_figure
        runs = [Run(labels[cell], history) for cell, history in diagnosed.items()]
        figures[_AGREEMENT_NAME] = draw(runs, title=f"Agreement of the workers\n{title}")
    return [save_figure(figure, folder / name) for name, figure in figures.items()]


@in_paper_style
def curve_figure(
    histories: Histories, labels: Labels, plot: CurvePlot, title: str, one_axis: bool
) -> Figure:
    num_axes = 1 if one_axis else len(histories)
    figure, axes = new_figure(*grid_shape(num_axes), f"{plot.title}\n{title}")
    for axis in axes[:num_axes]:
        name_axes(axis, plot.metric, plot.x)
    for index, (cell, history) in enumerate(histories.items()):
        axis = axes[0] if one_axis else axes[index]
        if len(history[plot.metric]):
            run = Run(labels[cell], history)
            draw_run(axis, index if one_axis else 0, run, plot.metric, plot.x)
        _name_axis(axis, labels[cell], len(axes))
    _hide_unused(axes, num_axes)
    if one_axis:
        add_legend(figure, axes)
    return figure


@in_paper_style
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
    """Shares of the levels by step."""
    levels = _levels(usage)
    labels = [f"{level:+d}" if level else "0" for level in levels]
    edges = np.arange(len(usage) + 1.0)
    stack_shares(axis, edges, usage, labels, level_colours(len(levels)))
    axis.set_ylabel("elements (%)")


def _mean_usage_figure(
    counted: dict[Cell, npt.NDArray[np.int64]], labels: Labels, heading: str
) -> Figure:
    figure, (axis,) = new_figure(1, 1, heading)
    for index, (cell, usage) in enumerate(counted.items()):
        shares = 100 * usage.sum(axis=0) / usage.sum()
        axis.plot(_levels(usage), shares, marker="o", label=labels[cell], **line_style(index))
    axis.set_xlabel("level")
    axis.set_ylabel("elements (%)")
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
        axis.set_title(name)


def _hide_unused(axes: list[Axes], used: int) -> None:
    for axis in axes[used:]:
        axis.set_axis_off()

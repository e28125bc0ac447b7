"""The figures of an experiment: five of every one, and those of what was counted or diagnosed."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from compsgd.history import Histories
from compsgd.plots.agreement import agreement_figure, mean_majority_figure
from compsgd.plots.curves import Run, draw_run, name_axes
from compsgd.plots.style import (
    add_legend,
    in_paper_style,
    new_grid,
    save_figure,
    share_axes,
)
from compsgd.plots.usages import mean_usage_figure, usages_figure

Cell = tuple[float, float]
Labels = Mapping[Cell, str]


class CurvePlot(NamedTuple):
    """A figure of one line a cell; for metric and x see curves_figure."""

    file_name: str
    title: str
    metric: str
    x: str


_EPOCH_LOSS = CurvePlot(
    "avg_epoch_loss.png", "Training loss by epoch", "avg_epoch_loss_hist", "epochs"
)
_BATCH_LOSS = CurvePlot("batch_loss.png", "Training loss by step", "batch_loss_hist", "steps")
# Of images.
CURVES = (
    _EPOCH_LOSS,
    CurvePlot("avg_epoch_acc.png", "Training accuracy by epoch", "avg_epoch_acc_hist", "epochs"),
    _BATCH_LOSS,
    CurvePlot("batch_acc.png", "Training accuracy by step", "batch_acc_hist", "steps"),
    CurvePlot("test_acc_by_bytes.png", "Test accuracy by traffic", "test_acc_hist", "bytes"),
)
TEXT_CURVES = (
    _EPOCH_LOSS,
    CurvePlot("avg_epoch_perplexity.png", "Training perplexity by epoch",
              "avg_epoch_perplexity_hist", "epochs"),
    _BATCH_LOSS,
    CurvePlot("batch_perplexity.png", "Training perplexity by step", "batch_perplexity_hist",
              "steps"),
    CurvePlot("test_loss_by_bytes.png", "Test loss by traffic", "test_loss_hist", "bytes"),
)  # fmt: skip
COSINE = CurvePlot("cosine.png", "Direction of the update", "cosine_hist", "steps")

_USAGE_NAME = "bin_usage.png"
_AGREEMENT_NAME = "agreement.png"
# Of any experiment.
PLOT_NAMES = tuple(
    dict.fromkeys(
        [plot.file_name for plot in CURVES + TEXT_CURVES]
        + [_USAGE_NAME, COSINE.file_name, _AGREEMENT_NAME]
    )
)


def draw_experiment(
    histories: Histories, labels: Labels, folder: Path, *, title: str, one_axis: bool
) -> list[Path]:
    """Draws an experiment's figures as PNG.

    Args:
        histories: of every cell of the sweep: the metrics of CURVES, or of TEXT_CURVES where one
            has perplexities, and "bin_usage" of shape (steps, levels), or an empty array where it
            was not counted.
        labels: what each cell is called.
        folder: where the files go; it is there.
        title: stands above every figure, after its own.
        one_axis: all cells in one axis, or one axis each.

    Returns:
        the paths of the files: five, or fewer where there are no values yet; one more where bin
        usage was counted, and two more with a diagnosis.

    Raises:
        KeyError: a metric is not in a history.
        CompsgdError: in an axis each, cells of different levels or numbers of workers.
        OSError: a file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from compsgd.plots import draw_experiment
        >>> by_epoch = ("avg_epoch_loss_hist", "avg_epoch_acc_hist", "test_acc_hist")
        >>> by_step = ("batch_loss_hist", "batch_acc_hist", "batch_step_hist", "bytes_sent_hist")
        >>> history = {name: [1.0] for name in by_epoch} | {name: [1, 2] for name in by_step}
        >>> history["bin_usage"] = np.array([[3, 0, 1], [2, 0, 2]])
        >>> histories, labels = {(0.1, 1.0): history}, {(0.1, 1.0): "lr 0.1"}
        >>> paths = draw_experiment(histories, labels, Path(), title="two steps", one_axis=True)
        >>> len(paths), paths[0].name
        (6, 'avg_epoch_loss.png')
    """
    figures = experiment_figures(histories, labels, title=title, one_axis=one_axis)
    return [save_figure(figure, folder / name) for name, figure in figures.items()]


def experiment_figures(
    histories: Histories, labels: Labels, *, title: str, one_axis: bool
) -> dict[str, Figure]:
    """The figures that `draw_experiment` writes.

    Args:
        histories, labels, title, one_axis: as of draw_experiment.

    Returns:
        the figures, by the names of their files.

    Raises:
        KeyError, CompsgdError: as draw_experiment.

    Examples:
        >>> import numpy as np
        >>> from compsgd.plots import experiment_figures
        >>> names = ("avg_epoch_loss_hist", "avg_epoch_acc_hist", "test_acc_hist",
        ...          "batch_loss_hist", "batch_acc_hist", "batch_step_hist", "bytes_sent_hist")
        >>> history = {name: [1.0] for name in names} | {"bin_usage": np.empty(0)}
        >>> figures = experiment_figures({(0.1, 1.0): history}, {(0.1, 1.0): "lr 0.1"}, title="",
        ...                              one_axis=True)
        >>> list(figures)[0]
        'avg_epoch_loss.png'
    """
    figures = {
        plot.file_name: curve_figure(histories, labels, plot, title, one_axis)
        for plot in _curves_of(histories)
        if any(len(history[plot.metric]) for history in histories.values())
    }
    counted = [Run(labels[cell], h) for cell, h in histories.items() if h["bin_usage"].ndim == 2]
    if counted:
        draw = mean_usage_figure if one_axis else usages_figure
        figures[_USAGE_NAME] = draw(counted, title=_titled("Bin usage", title))
    diagnosed = {cell: h for cell, h in histories.items() if len(h.get(COSINE.metric, ()))}
    if diagnosed:
        figures[COSINE.file_name] = curve_figure(diagnosed, labels, COSINE, title, one_axis)
        draw = mean_majority_figure if one_axis else agreement_figure
        runs = [Run(labels[cell], history) for cell, history in diagnosed.items()]
        figures[_AGREEMENT_NAME] = draw(runs, title=_titled("Agreement of the workers", title))
    return figures


def _titled(own: str, title: str) -> str:
    return f"{own}\n{title}".strip()


def _curves_of(histories: Histories) -> tuple[CurvePlot, ...]:
    is_text = any("test_perplexity_hist" in history for history in histories.values())
    return TEXT_CURVES if is_text else CURVES


@in_paper_style
def curve_figure(
    histories: Histories, labels: Labels, plot: CurvePlot, title: str, one_axis: bool
) -> Figure:
    names = [""] if one_axis else [labels[cell] for cell in histories]
    figure, axes = new_grid(names, _titled(plot.title, title))
    for axis in axes:
        name_axes(axis, plot.metric, plot.x)
    for index, (cell, history) in enumerate(histories.items()):
        if len(history[plot.metric]):
            place = (axes[0], index) if one_axis else (axes[index], 0)
            draw_run(*place, Run(labels[cell], history), plot.metric, plot.x)
    share_axes(figure, axes)
    if one_axis:
        add_legend(figure, axes)
    return figure

"""Bin usage of any runs, side by side."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from compsgd.errors import CompsgdError
from compsgd.plots.curves import Run
from compsgd.plots.experiment import stack_usage
from compsgd.plots.style import add_legend, grid_shape, in_paper_style, new_figure


@in_paper_style
def usages_figure(runs: Sequence[Run], *, title: str = "") -> Figure:
    """The shares of the levels over the steps, stacked, an axis a run.

    Args:
        runs: with as many levels each.
        title: above all.

    Raises:
        CompsgdError: a run whose usage was not counted, or runs of different levels.
    """
    for label, history in runs:
        if getattr(history.get("bin_usage"), "ndim", 0) != 2:
            raise CompsgdError(f"{label}: bin usage was not counted (--count_usages counts it)")
    widths = {history["bin_usage"].shape[1] for _, history in runs}
    if len(widths) > 1:
        raise CompsgdError(
            f"the runs have {' and '.join(map(str, sorted(widths)))} levels; one legend needs the "
            "same for all"
        )
    figure, axes = new_figure(*grid_shape(len(runs)), title)
    for axis, (label, history) in zip(axes, runs, strict=False):
        stack_usage(axis, history["bin_usage"])
        if len(runs) > 1:
            axis.set_title(label)
    for axis in axes[len(runs) :]:
        axis.set_axis_off()
    add_legend(figure, axes)
    return figure

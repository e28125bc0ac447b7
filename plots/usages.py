"""Bin usage of any runs, side by side or in one axis."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compsgd.errors import CompsgdError
from compsgd.plots.curves import Run
from compsgd.plots.stacks import check_alike, stack_shares
from compsgd.plots.style import (
    add_legend,
    in_paper_style,
    level_colours,
    line_style,
    new_figure,
    new_grid,
    share_axes,
)

Counts = npt.NDArray[np.int64]


@in_paper_style
def usages_figure(runs: Sequence[Run], *, title: str = "") -> Figure:
    """The shares of the levels over the steps, stacked, an axis a run.

    Args:
        runs: with as many levels each: "bin_usage", integers of shape (steps, levels), how many
            elements of the update had each level, from -L to L.
        title: above all.

    Returns:
        the figure: steps to the right, elements in percent upwards.

    Raises:
        CompsgdError: a run whose usage was not counted, or runs of different levels.

    Examples:
        >>> import numpy as np
        >>> from compsgd.plots import Run, usages_figure
        >>> run = Run("1 bit", {"bin_usage": np.array([[3, 0, 1], [2, 0, 2]])})
        >>> (axis,) = usages_figure([run]).axes
        >>> [part.get_label() for part in axis.collections]
        ['-1', '0', '+1']
    """
    usages = [_usage(run) for run in runs]
    check_alike([usage.shape[1] for usage in usages], "levels")
    figure, axes = new_grid([run.label for run in runs], title)
    for axis, usage in zip(axes, usages, strict=True):
        _stack(axis, usage)
    share_axes(figure, axes, x=False)
    add_legend(figure, axes)
    return figure


@in_paper_style
def mean_usage_figure(runs: Sequence[Run], *, title: str = "") -> Figure:
    """The mean shares by level, a line a run: what fits into one axis.

    Args:
        runs: with "bin_usage", integers of shape (steps, levels), how many elements of the update
            had each level, from -L to L. The levels may differ.
        title: above the figure.

    Returns:
        the figure: levels to the right, elements in percent upwards.

    Raises:
        CompsgdError: a run whose usage was not counted.

    Examples:
        >>> import numpy as np
        >>> from compsgd.plots import Run, mean_usage_figure
        >>> run = Run("1 bit", {"bin_usage": np.array([[3, 0, 1], [2, 0, 2]])})
        >>> (axis,) = mean_usage_figure([run]).axes
        >>> axis.lines[0].get_ydata().tolist()
        [62.5, 0.0, 37.5]
    """
    figure, (axis,) = new_figure(1, 1, title)
    for i, run in enumerate(runs):
        usage = _usage(run)
        shares = 100 * usage.sum(axis=0) / usage.sum()
        axis.plot(_levels(usage), shares, marker="o", label=run.label, **line_style(i))
    axis.set_xlabel("level")
    axis.set_ylabel("elements (%)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    add_legend(figure, [axis])
    return figure


def _stack(axis: Axes, usage: Counts) -> None:
    levels = _levels(usage)
    labels = [f"{level:+d}" if level else "0" for level in levels]
    edges = np.arange(len(usage) + 1.0)
    stack_shares(axis, edges, usage, labels, level_colours(len(levels)))
    axis.set_ylabel("elements (%)")


def _usage(run: Run) -> Counts:
    """Shape (steps, levels)."""
    if getattr(run.history.get("bin_usage"), "ndim", 0) != 2:
        raise CompsgdError(f"{run.label}: bin usage was not counted (--count_usages counts it)")
    usage: Counts = run.history["bin_usage"]
    if not len(usage) or usage.shape[1] % 2 == 0:
        raise CompsgdError(f"{run.label}: bin usage of shape {usage.shape} is of no levels")
    return usage


def _levels(usage: Counts) -> list[int]:
    largest = usage.shape[1] // 2
    return list(range(-largest, largest + 1))

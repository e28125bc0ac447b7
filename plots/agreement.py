"""How far the workers agree, over the steps (`--diagnose`)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compsgd.errors import CompsgdError
from compsgd.plots.curves import Run, draw_line
from compsgd.plots.stacks import check_alike, stack_shares
from compsgd.plots.style import add_legend, in_paper_style, new_figure, new_grid, size_colours


@in_paper_style
def agreement_figure(runs: Sequence[Run], *, title: str = "") -> Figure:
    """The shares of elements by the size of the majority among their ballots, stacked over the
    steps, an axis a run.

    Args:
        runs: of as many workers each, with a diagnosis: "agreement_hist" of shape (diagnoses,
            workers), counts or shares of elements by the size of their majority, 1 to workers; and
            "diagnosis_step_hist", after which steps.
        title: above all.

    Returns:
        the figure: steps to the right, elements in percent upwards.

    Raises:
        CompsgdError: a run without a diagnosis, or runs of different numbers of workers.

    Example:
        >>> from compsgd.plots import Run, agreement_figure
        >>> history = {"agreement_hist": [[0.0, 30.0, 70.0]], "diagnosis_step_hist": [100]}
        >>> (axis,) = agreement_figure([Run("three workers", history)]).axes
        >>> [part.get_label() for part in axis.collections]
        ['majority of 2', 'majority of 3']
    """
    shares = [_shares(run) for run in runs]
    check_alike([one.shape[1] for one in shares], "workers")
    # No majority is smaller than half of the ballots, where all vote and zeros are broken.
    smallest = min(int(np.flatnonzero(one.any(axis=0))[0]) for one in shares)
    figure, axes = new_grid([run.label for run in runs], title)
    for axis, run, one in zip(axes, runs, shares, strict=True):
        _stack(axis, run, one, smallest)
    add_legend(figure, axes)
    return figure


@in_paper_style
def mean_majority_figure(runs: Sequence[Run], *, title: str = "") -> Figure:
    """The mean size of the majority over the steps, a line a run: what fits into one axis.

    Args:
        runs: with a diagnosis: "agreement_hist" of shape (diagnoses, workers), shares of elements
            by the size of their majority, which add up to 1; and "diagnosis_step_hist", after which
            steps. The numbers of workers may differ.
        title: above the figure.

    Returns:
        the figure: steps to the right, ballots of an element upwards.

    Raises:
        CompsgdError: a run without a diagnosis.

    Example:
        >>> from compsgd.plots import Run, mean_majority_figure
        >>> history = {"agreement_hist": [[0.0, 0.5, 0.5]], "diagnosis_step_hist": [100]}
        >>> (axis,) = mean_majority_figure([Run("three workers", history)]).axes
        >>> axis.lines[0].get_ydata().tolist()
        [2.5]
    """
    figure, (axis,) = new_figure(1, 1, title)
    for i, run in enumerate(runs):
        shares = _shares(run)
        sizes = shares @ np.arange(1.0, shares.shape[1] + 1)
        draw_line(axis, i, run.label, _steps(run), sizes)
    axis.set_xlabel("step")
    axis.set_ylabel("mean majority (ballots of an element)")
    axis.grid(alpha=0.3)
    add_legend(figure, [axis])
    return figure


def _stack(axis: Axes, run: Run, shares: npt.NDArray[np.float64], smallest: int) -> None:
    """Args: smallest: index of the first share that is drawn."""
    sizes = range(smallest + 1, shares.shape[1] + 1)
    # A diagnosis stands for the steps since the one before.
    edges = np.concatenate([[0.0], _steps(run)])
    labels = [f"majority of {size}" for size in sizes]
    stack_shares(axis, edges, shares[:, smallest:], labels, size_colours(len(sizes)))
    axis.set_ylabel("elements (%)")


def _shares(run: Run) -> npt.NDArray[np.float64]:
    """Shape (diagnoses, workers)."""
    found = np.asarray(run.history.get("agreement_hist", ()), dtype=np.float64)
    if found.ndim != 2 or not len(found):
        raise CompsgdError(f"{run.label}: agreement was not recorded (--diagnose records it)")
    if np.shape(run.history.get("diagnosis_step_hist", ())) != (len(found),):
        raise CompsgdError(f"{run.label}: it does not say after which steps agreement was recorded")
    return found


def _steps(run: Run) -> npt.NDArray[np.float64]:
    return np.asarray(run.history["diagnosis_step_hist"], dtype=np.float64)

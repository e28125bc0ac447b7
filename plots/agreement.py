"""How far the workers agree, over the steps (`--diagnose`)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compsgd.errors import CompsgdError
from compsgd.plots.curves import Run, draw_line
from compsgd.plots.stacks import check_alike, stack_shares
from compsgd.plots.style import (
    add_legend,
    add_note,
    count_in_whole_numbers,
    in_paper_style,
    new_figure,
    new_grid,
    share_axes,
    size_colours,
)


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
        the figure: steps to the right, elements in percent upwards. Rounds in which fewer workers
        voted than in others, as at the end of an epoch, are left out, and a note says how many.

    Raises:
        CompsgdError: a run without a diagnosis, or runs of different numbers of workers.

    Examples:
        >>> from compsgd.plots import Run, agreement_figure
        >>> history = {"agreement_hist": [[0.0, 30.0, 70.0]], "diagnosis_step_hist": [100]}
        >>> (axis,) = agreement_figure([Run("three workers", history)]).axes
        >>> [part.get_label() for part in axis.collections]
        ['majority of 2', 'majority of 3']
    """
    found = [_Agreement.of(run) for run in runs]
    check_alike([one.shares.shape[1] for one in found], "workers")
    # No majority is smaller than half of the ballots, where all vote and zeros are broken.
    smallest = min(int(np.flatnonzero(one.shares.any(axis=0))[0]) for one in found)
    figure, axes = new_grid([run.label for run in runs], title)
    for axis, one in zip(axes, found, strict=True):
        _stack(axis, one, smallest)
    share_axes(figure, axes, x=False)
    add_legend(figure, axes)
    _add_note(figure, found)
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
        the figure: steps to the right, ballots of an element upwards; without the rounds in which
        fewer workers voted than in others.

    Raises:
        CompsgdError: a run without a diagnosis.

    Examples:
        >>> from compsgd.plots import Run, mean_majority_figure
        >>> history = {"agreement_hist": [[0.0, 0.5, 0.5]], "diagnosis_step_hist": [100]}
        >>> (axis,) = mean_majority_figure([Run("three workers", history)]).axes
        >>> axis.lines[0].get_ydata().tolist()
        [2.5]
    """
    figure, (axis,) = new_figure(1, 1, title)
    found = [_Agreement.of(run) for run in runs]
    for i, (run, one) in enumerate(zip(runs, found, strict=True)):
        sizes = one.shares @ np.arange(1.0, one.shares.shape[1] + 1)
        draw_line(axis, i, run.label, one.steps, sizes)
    axis.set_xlabel("step")
    count_in_whole_numbers(axis)
    axis.set_ylabel("mean majority (ballots)")
    axis.grid(alpha=0.3)
    add_legend(figure, [axis])
    _add_note(figure, found)
    return figure


class _Agreement(NamedTuple):
    """Of a run, in the rounds in which as many workers voted as ever.

    Attributes:
        shares: of elements, by the size of their majority; shape (rounds, workers).
        steps: after which they were taken, shape (rounds,).
        num_left_out: rounds in which fewer voted: their largest majority is smaller.
    """

    shares: npt.NDArray[np.float64]
    steps: npt.NDArray[np.float64]
    num_left_out: int

    @classmethod
    def of(cls, run: Run) -> "_Agreement":
        shares = _shares(run)
        largest = shares.shape[1] - np.argmax(shares[:, ::-1] > 0, axis=1)
        chosen = largest == largest.max()
        return cls(shares[chosen], _steps(run)[chosen], int((~chosen).sum()))


def _add_note(figure: Figure, found: Sequence[_Agreement]) -> None:
    left_out = sum(one.num_left_out for one in found)
    if left_out:
        all_ = left_out + sum(len(one.steps) for one in found)
        add_note(figure, f"without {left_out} of {all_} rounds, in which fewer workers had a batch")


def _stack(axis: Axes, one: _Agreement, smallest: int) -> None:
    """Args: smallest: index of the first share that is drawn."""
    sizes = range(smallest + 1, one.shares.shape[1] + 1)
    # A diagnosis stands for the steps since the one before.
    edges = np.concatenate([[0.0], one.steps])
    labels = [f"majority of {size}" for size in sizes]
    stack_shares(axis, edges, one.shares[:, smallest:], labels, size_colours(len(sizes)))
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

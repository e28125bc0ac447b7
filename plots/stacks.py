"""Shares of a whole over the steps, stacked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from compsgd.errors import CompsgdError
from compsgd.plots.style import count_in_whole_numbers

Vector = npt.NDArray[np.float64]

_MOST_COLUMNS = 400
_MOST_LABELLED = 17


def stack_shares(
    axis: Axes, edges: Vector, parts: npt.NDArray[Any], labels: Sequence[str], colours: list[Any]
) -> None:
    """A column a row of `parts`; where there are thousands, neighbours share one.

    Args:
        edges: steps between which the columns lie, shape (columns + 1,), ascending.
        parts: numbers or shares, shape (columns, parts); what a row adds up to is 100 %.
        labels, colours: of the parts, from the bottom to the top.
    """
    num_columns = min(len(parts), _MOST_COLUMNS)
    chosen = np.linspace(0, len(parts), num_columns + 1).astype(int)
    summed = np.add.reduceat(parts, chosen[:-1], axis=0)
    shares = 100 * summed / summed.sum(axis=1, keepdims=True)
    # Each column reaches from its first step to its last.
    x = np.repeat(edges[chosen], 2)[1:-1]
    stacked = np.repeat(shares, 2, axis=0).T
    axis.stackplot(x, stacked, labels=_few(labels), colors=colours, linewidth=0)
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(0, 100)
    axis.set_xlabel("step")
    count_in_whole_numbers(axis)


def check_alike(counts: Sequence[int], noun: str) -> None:
    """Raises CompsgdError unless all runs have as many parts: they share a legend."""
    if len(set(counts)) > 1:
        raise CompsgdError(
            f"the runs have {' and '.join(map(str, sorted(set(counts))))} {noun}; one legend "
            "needs the same for all"
        )


def _few(labels: Sequence[str]) -> list[str]:
    """Of many the legend has room for a few: the ends, the middle, and those halfway."""
    last = len(labels) - 1
    if len(labels) <= _MOST_LABELLED:
        return list(labels)
    named = {0, last // 4, last // 2, -(-3 * last // 4), last}
    return [label if i in named else "_nolegend_" for i, label in enumerate(labels)]

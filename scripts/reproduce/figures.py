"""The figure of a family, of the runs that are finished."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cells import Cell, Family
from matplotlib.figure import Figure
from measures import finished_folders, mean, read_history
from running import Laboratory

from compsgd.history import History
from compsgd.plots import RatePoint, Run, compression_figure, curves_figure, usages_figure

_BLOCK_STEPS = 100

Found = Sequence[tuple[Cell, Sequence[Path]]]


def family_figure(family: Family, grid: str, laboratory: Laboratory) -> Figure | None:
    """None where nothing is finished."""
    found = [(cell, finished_folders(cell, grid, laboratory)) for cell in family.chosen(grid)]
    there = [(cell, folders) for cell, folders in found if folders]
    return _DRAWN_BY_MEASURE.get(family.measure, _curves)(family, there) if there else None


def _curves(family: Family, found: Found) -> Figure:
    """Training accuracy by step, of the first seed."""
    return curves_figure(
        [Run(cell.label, in_blocks(read_history(folders[0]))) for cell, folders in found],
        "batch_acc_hist",
        title=family.title,
        x_label=f"step (means of {_BLOCK_STEPS})",
        y_label="training accuracy (%)",
    )


def in_blocks(history: History) -> History:
    """Accuracy by step, averaged over blocks of about a hundred, each at its last step."""
    accuracy, steps = history["batch_acc_hist"], history["batch_step_hist"]
    num_blocks = max(1, len(steps) // _BLOCK_STEPS)
    return {
        "batch_acc_hist": [block.mean() for block in np.array_split(accuracy, num_blocks)],
        "batch_step_hist": [block[-1] for block in np.array_split(steps, num_blocks)],
    }


def _usages(family: Family, found: Found) -> Figure:
    runs = [Run(cell.label, read_history(folders[0])) for cell, folders in found]
    return usages_figure(runs, title=family.title)


def _rates(family: Family, found: Found) -> Figure:
    lines: dict[str, list[RatePoint]] = {}
    for cell, folders in found:
        accuracy, rate = mean(family.measure, folders)
        label, _, line = cell.label.partition(", ")
        lines.setdefault(line or label, []).append(RatePoint(label, rate, accuracy))
    return compression_figure(lines, title=family.title)


_DRAWN_BY_MEASURE = {"bin usage": _usages, "test accuracy, compression rate": _rates}

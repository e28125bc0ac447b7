"""Numbers that are compared with published ones, read from the results of a run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell
from running import Laboratory

from compsgd.history import History, read_histories

Numbers = tuple[float, ...]


def read_history(folder: Path) -> History:
    """Of the only cell of a run."""
    (history,) = read_histories(folder / "histories.pkl").values()
    return history


def _summary(folder: Path) -> dict[str, Any]:
    (summary,) = json.loads((folder / "result.json").read_text())["cells"]
    found: dict[str, Any] = summary
    return found


def _usage(folder: Path) -> Numbers:
    """Of all updates, percent by level."""
    counts = read_history(folder)["bin_usage"].sum(axis=0)
    return tuple((100 * counts / counts.sum()).tolist())


# Accuracies in percent, full-train: of the final weights on the whole training set in eval mode;
# last epoch's: the running mean over its batches in train mode.
MEASURES: dict[str, Callable[[Path], Numbers]] = {
    "full-train accuracy": lambda folder: (_summary(folder)["train_acc"],),
    "last epoch's accuracy": lambda folder: (_summary(folder)["last_epoch_acc"],),
    "test accuracy, compression rate": lambda folder: (
        _summary(folder)["test_acc"],
        _summary(folder)["compression_rate"],
    ),
    "bin usage": _usage,
}


def finished_folders(cell: Cell, grid: str, laboratory: Laboratory) -> list[Path]:
    """Of the runs of a cell that have results, the published seed first."""
    trainings = [laboratory.adapted(training) for training in cell.trainings(grid)]
    return [laboratory.folder(one) for one in trainings if laboratory.is_finished(one)]


def mean(measure: str, folders: Sequence[Path]) -> Numbers:
    """The measure, averaged over runs."""
    return tuple(np.mean([MEASURES[measure](folder) for folder in folders], axis=0).tolist())

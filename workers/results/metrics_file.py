"""Histories as a table that everything reads: a row a value."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from compsgd.files import atomic_write
from compsgd.history import Histories
from compsgd.history.axes import metric_names, steps_of

HEAD = ("lr", "decay", "metric", "step", "value")


def write_metrics(path: Path, histories: Histories) -> None:
    """Writes a CSV file, atomically: for each cell every metric, after which step, and its value
    with all of its digits."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(HEAD)
    writer.writerows(_rows(histories))
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _rows(histories: Histories) -> Iterator[tuple[float, float, str, int, float]]:
    for (lr, decay), history in histories.items():
        for metric in metric_names(history):
            for step, value in zip(steps_of(history, metric), history[metric], strict=True):
                yield lr, decay, metric, round(step), float(value)

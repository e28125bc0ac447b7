"""What the study has found: a row a run, in a table that is committed, and the curves beside it."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plan import REPORT, Trial

from compsgd.history import read_histories
from compsgd.workers.bench.provenance import here_today

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from csv_rows import read_rows, write_rows

RESULTS, CURVES = "results.csv", "curves.csv"
# Of a curve: what a figure can show.
_NUM_BLOCKS = 30
_DIGITS = 7


@dataclass(frozen=True)
class Row:
    """A run.

    Attributes:
        definition: of what was run; see Trial.
        metric: the task's, at the end; NaN of a run that diverged.
        bytes_per_step: that a worker sent, on average.
        compression: against a ring all-reduce of float32.
        seconds: of the whole run, evaluations included.
        day, where: when its results were taken over, and on which machine; see Provenance.
    """

    task: str
    method: str
    stage: str
    lr: float
    seed: int
    definition: str
    rounds: int
    metric: float
    train_loss: float
    bytes_per_step: float
    compression: float
    seconds: float
    day: str
    where: str


@dataclass(frozen=True)
class Point:
    """Of the curve of a reported run: the mean loss of a block of batches, at its last round."""

    task: str
    method: str
    lr: float
    seed: int
    definition: str
    round: int
    loss: float


Key = tuple[str, str, str, float, int, str]


class Records:
    """The rows of all finished runs; what a folder of runs has in addition is taken over.

    Each run writes results of its own, so that whatever is interrupted loses no other's.
    """

    def __init__(self, out: Path, log_dir: Path) -> None:
        """
        Args:
            out: the folder of the tables.
            log_dir: the folder of the runs.
        """
        self._out = out
        self._log_dir = log_dir
        self._rows = {_key(row): row for row in read_rows(out / RESULTS, Row, "run.py")}
        points = read_rows(out / CURVES, Point, "run.py")
        self._points = {_point_key(point): point for point in points}

    def folder(self, trial: Trial) -> Path:
        """Of a run; another definition has another one."""
        names = (trial.task.name, trial.method.name, f"{trial.name}_{trial.definition}")
        return self._log_dir.joinpath(*names)

    def row(self, trial: Trial) -> Row | None:
        """What came of a run; None if it is not finished."""
        key = _key_of(trial)
        if key not in self._rows:
            self._take_over(trial)
        return self._rows.get(key)

    @property
    def rows(self) -> Sequence[Row]:
        """All of them."""
        return list(self._rows.values())

    def metric(self, trial: Trial) -> float | None:
        row = self.row(trial)
        return None if row is None else row.metric

    def curve(self, trial: Trial) -> list[Point]:
        """Of a reported run; empty if it is not finished."""
        wanted = (trial.task.name, trial.method.name, trial.lr, trial.seed, trial.definition)
        found = [point for key, point in self._points.items() if key[:-1] == wanted]
        return sorted(found, key=lambda point: point.round)

    def write(self) -> None:
        """The tables, atomically: a reader finds the old ones or the new ones."""
        write_rows(self._out / RESULTS, Row, [self._rows[key] for key in sorted(self._rows)])
        write_rows(self._out / CURVES, Point, [self._points[key] for key in sorted(self._points)])

    def _take_over(self, trial: Trial) -> None:
        folder = self.folder(trial)
        with suppress(FileNotFoundError):
            result = json.loads((folder / "result.json").read_text())
            row = _as_row(trial, result["cells"][0])
            if trial.stage == REPORT:
                points = _as_points(trial, folder)
                self._points |= {_point_key(point): point for point in points}
            self._rows[_key(row)] = row


def _as_row(trial: Trial, cell: Mapping[str, Any]) -> Row:
    return Row(
        *_key_of(trial),
        rounds=int(cell["num_steps"]),
        metric=_number(cell[trial.task.metric.result]),
        train_loss=_number(cell["train_loss"]),
        bytes_per_step=_number(cell["bytes_per_worker_and_step"]),
        compression=_number(cell["compression_rate"]),
        seconds=_number(cell["seconds"]),
        **here_today()._asdict(),
    )


def _number(value: float | None) -> float:
    """To as many digits as the tables hold."""
    return float("nan") if value is None else float(f"{value:.{_DIGITS}g}")


def _as_points(trial: Trial, folder: Path) -> Iterator[Point]:
    (history,) = read_histories(folder / "histories.pkl").values()
    losses, steps = np.asarray(history["batch_loss_hist"]), history["batch_step_hist"]
    for block in np.array_split(np.arange(len(losses)), min(_NUM_BLOCKS, len(losses))):
        yield Point(
            trial.task.name, trial.method.name, trial.lr, trial.seed, trial.definition,
            int(steps[block[-1]]), _number(losses[block].mean()),
        )  # fmt: skip


def _key_of(trial: Trial) -> Key:
    return (trial.task.name, trial.method.name, trial.stage, trial.lr, trial.seed,
            trial.definition)  # fmt: skip


def _key(row: Row) -> Key:
    return (row.task, row.method, row.stage, row.lr, row.seed, row.definition)


def _point_key(point: Point) -> tuple[Any, ...]:
    return astuple(point)[:-1]

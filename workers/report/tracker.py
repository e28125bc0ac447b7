"""A user's own tracker, as of Weights & Biases or MLflow: told what the progress bar is told."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compsgd.optim.round_optimizer import RoundOptimizer
from compsgd.workers.failures import RunError
from compsgd.workers.own_code import find_factory, told
from compsgd.workers.report.progress import Step
from compsgd.workers.train.scores import Score

log = logging.getLogger("compsgd")

OPTION = "--track"
FOLDER = "tracker"


def check_tracker(name: str | None) -> None:
    """Raises UsageError if --track names what cannot be found."""
    if name is not None:
        find_factory(OPTION, name)


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is made for: one cell of a sweep.

    Attributes:
        experiment: its name.
        cell: the cell's, as the progress bar has it.
        lr: the cell's largest learning rate.
        range_decay: the cell's; 1.0 of optimizers without a range.
        options: all of them, by the names of the command line.
        folder: for what it writes; the cell's own, in the experiment's. A run that is resumed
            finds it again, and --overwrite empties it.
    """

    experiment: str
    cell: str
    lr: float
    range_decay: float
    options: dict[str, Any]
    folder: Path


class Tracker:
    """A user's object in the place of a `Progress`; what it has no method for, it is not told.

    Where it raises, one line says so, and the run goes on without it: hours of training are worth
    more than their curves.
    """

    def __init__(self, name: str, factory: Callable[[TrackedRun], Any], run: TrackedRun) -> None:
        """
        Args:
            name: module:factory.

        Raises:
            RunError: the factory raises, or there can be no folder; the cell has not begun.
        """
        self._name = name
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            self._tracker = factory(run)
        except Exception as error:
            raise RunError(
                f"{OPTION} {name}: calling it with the run failed: {told(error)}"
            ) from error

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: object) -> None:
        self._tell("close")

    def resume(self, epoch: int, round_: int) -> None:
        self._tell("resume", epoch, round_)

    def step(self, step: Step, optimizer: RoundOptimizer) -> None:
        self._tell("step", step, optimizer)

    def evaluating(self, split: str) -> None:
        self._tell("evaluating", split)

    def tested(self, test: Score, optimizer: RoundOptimizer) -> None:
        self._tell("tested", test, optimizer)

    def epoch(
        self, epoch: int, train: Score, test: Score | None, optimizer: RoundOptimizer
    ) -> None:
        self._tell("epoch", epoch, train, test, optimizer)

    def _tell(self, method: str, *args: Any) -> None:
        if not hasattr(self._tracker, method):
            return
        try:
            getattr(self._tracker, method)(*args)
        except Exception as error:
            self._tracker = None
            log.warning(
                "%s %s: %s failed: %s; the run goes on without it", OPTION, self._name, method,
                told(error),
            )  # fmt: skip

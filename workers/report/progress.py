"""What a person sees of a run while it goes on: one bar, or plain lines without a terminal."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import click

from compsgd.optim.round_optimizer import RoundOptimizer
from compsgd.workers.options import Cell
from compsgd.workers.train.diagnosis import Finding
from compsgd.workers.train.measures import Measure
from compsgd.workers.train.scores import BatchScore, Score

_LINE_INTERVAL_S = 10.0


class Step(NamedTuple):
    """What a round came to.

    Attributes:
        epoch, round_: where it was, both from 0.
        score: of the batch of this process's first worker; None where it had none.
        num_bytes: that worker 0 sent for gradients.
        total_bytes: the same of all steps so far.
        finding: where a diagnosis was due.
    """

    epoch: int
    round_: int
    score: BatchScore | None
    num_bytes: int
    total_bytes: int
    finding: Finding | None


class Progress(Protocol):
    """Told of every step and epoch of a cell; the optimizer is as it is after them."""

    def resume(self, epoch: int, round_: int) -> None: ...
    def step(self, step: Step, optimizer: RoundOptimizer) -> None: ...
    def epoch(self, epoch: int, train: Score, test: Score, optimizer: RoundOptimizer) -> None: ...


class Silence:
    """For all processes but one."""

    def resume(self, epoch: int, round_: int) -> None:
        pass

    def step(self, step: Step, optimizer: RoundOptimizer) -> None:
        pass

    def epoch(self, epoch: int, train: Score, test: Score, optimizer: RoundOptimizer) -> None:
        pass


class Together(ExitStack):
    """Several as one; those that are contexts are left with it."""

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        self._parts: Sequence[Progress] = [
            self.enter_context(part) if hasattr(part, "__exit__") else part for part in parts
        ]

    def resume(self, epoch: int, round_: int) -> None:
        for part in self._parts:
            part.resume(epoch, round_)

    def step(self, step: Step, optimizer: RoundOptimizer) -> None:
        for part in self._parts:
            part.step(step, optimizer)

    def epoch(self, epoch: int, train: Score, test: Score, optimizer: RoundOptimizer) -> None:
        for part in self._parts:
            part.epoch(epoch, train, test, optimizer)


class Lines:
    """A line an epoch, and one now and then in a long one."""

    def __init__(self, cell_name: str, num_rounds: int, measure: Measure) -> None:
        self._cell_name = cell_name
        self._num_rounds = num_rounds
        self._measure = measure
        self._last = time.monotonic()

    def resume(self, epoch: int, round_: int) -> None:
        self._say(f"goes on in epoch {epoch + 1} after round {round_}/{self._num_rounds}")

    def step(self, step: Step, optimizer: RoundOptimizer) -> None:
        if time.monotonic() - self._last >= _LINE_INTERVAL_S:
            place = f"epoch {step.epoch + 1}, round {step.round_ + 1}/{self._num_rounds}"
            self._say(f"{place}: {_describe(step, self._measure)}")

    def epoch(self, epoch: int, train: Score, test: Score, optimizer: RoundOptimizer) -> None:
        self._say(
            f"epoch {epoch + 1}: training loss {train.loss:.4f}, {self._measure.text(train)}; "
            f"test loss {test.loss:.4f}, {self._measure.text(test)}"
        )

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        click.echo(f"{self._cell_name}: {text}")


class Bar:
    """One bar over all rounds of a cell."""

    def __init__(self, cell_name: str, num_rounds: int, num_epochs: int, measure: Measure) -> None:
        self._measure = measure
        self._num_rounds = num_rounds
        self._num_epochs = num_epochs
        self._bar: Any = click.progressbar(
            length=num_rounds * num_epochs,
            label=cell_name,
            item_show_func=lambda item: item,
            width=20,
            update_min_steps=max(1, num_rounds * num_epochs // 2000),
        )
        self._test = ""

    def __enter__(self) -> "Bar":
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def resume(self, epoch: int, round_: int) -> None:
        self._bar.update(epoch * self._num_rounds + round_)

    def step(self, step: Step, optimizer: RoundOptimizer) -> None:
        place = (
            f"epoch {step.epoch + 1}/{self._num_epochs} round {step.round_ + 1}/{self._num_rounds}"
        )
        self._bar.update(1, f"{place} {_describe(step, self._measure)}{self._test}")

    def epoch(self, epoch: int, train: Score, test: Score, optimizer: RoundOptimizer) -> None:
        self._test = f" test {self._measure.number(test)}"


def _describe(step: Step, measure: Measure) -> str:
    traffic = f"{step.num_bytes:,} B/step"
    if step.score is None:
        return traffic
    return f"loss {step.score.loss:.4f} {measure.text(step.score, digits=1)} {traffic}"


def cell_name(cell: Cell, has_range: bool) -> str:
    lr, decay = cell
    return f"lr {lr}, decay {decay}" if has_range else f"lr {lr}"


def cell_file_name(cell: Cell) -> str:
    """What a cell's files and folders are called."""
    lr, decay = cell
    return f"lr{lr}_decay{decay}"


def on_a_terminal() -> bool:
    return sys.stdout.isatty()

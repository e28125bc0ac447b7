"""What a person sees of a run while it goes on: one bar, or plain lines without a terminal."""

import shutil
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
from compsgd.workers.train.duration import Duration
from compsgd.workers.train.measures import Measure
from compsgd.workers.train.scores import BatchScore, Score

_LINE_INTERVAL_S = 10.0
# In characters.
_WIDE_LINE, _WIDE_BAR, _NARROW_BAR = 100, 20, 10
# What click writes around the bar: brackets, percent, and a time to come of up to days.
_AROUND_BAR = len("  []  100%  99d 00:00:00  ")


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
    """Told of every step and epoch of a cell; the optimizer is as it is after them.

    `evaluating` comes before an evaluation, which may take long. `tested` is for --evaluate_every,
    before the epoch of the same round; without, `epoch` has the test score, and `tested` is never
    called.
    """

    def resume(self, epoch: int, round_: int) -> None: ...
    def step(self, step: Step, optimizer: RoundOptimizer) -> None: ...
    def evaluating(self, split: str) -> None: ...
    def tested(self, test: Score, optimizer: RoundOptimizer) -> None: ...
    def epoch(
        self, epoch: int, train: Score, test: Score | None, optimizer: RoundOptimizer
    ) -> None: ...


class Silence:
    """For all processes but one."""

    def resume(self, epoch: int, round_: int) -> None:
        pass

    def step(self, step: Step, optimizer: RoundOptimizer) -> None:
        pass

    def evaluating(self, split: str) -> None:
        pass

    def tested(self, test: Score, optimizer: RoundOptimizer) -> None:
        pass

    def epoch(
        self, epoch: int, train: Score, test: Score | None, optimizer: RoundOptimizer
    ) -> None:
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

    def evaluating(self, split: str) -> None:
        for part in self._parts:
            part.evaluating(split)

    def tested(self, test: Score, optimizer: RoundOptimizer) -> None:
        for part in self._parts:
            part.tested(test, optimizer)

    def epoch(
        self, epoch: int, train: Score, test: Score | None, optimizer: RoundOptimizer
    ) -> None:
        for part in self._parts:
            part.epoch(epoch, train, test, optimizer)


class Lines:
    """A line an epoch, one an evaluation between epochs, and one now and then in a long epoch."""

    def __init__(self, cell_name: str, duration: Duration, measure: Measure) -> None:
        self._cell_name = cell_name
        self._duration = duration
        self._measure = measure
        self._last = time.monotonic()

    def resume(self, epoch: int, round_: int) -> None:
        num_rounds = self._duration.rounds_of(epoch)
        self._say(f"goes on in epoch {epoch + 1} after round {round_}/{num_rounds}")

    def step(self, step: Step, optimizer: RoundOptimizer) -> None:
        if time.monotonic() - self._last >= _LINE_INTERVAL_S:
            num_rounds = self._duration.rounds_of(step.epoch)
            place = f"epoch {step.epoch + 1}, round {step.round_ + 1}/{num_rounds}"
            self._say(f"{place}: {_describe(step, self._measure)}")

    def evaluating(self, split: str) -> None:
        if time.monotonic() - self._last >= _LINE_INTERVAL_S:
            self._say(f"evaluating on the {split} set")

    def tested(self, test: Score, optimizer: RoundOptimizer) -> None:
        place = f"round {optimizer.round}/{self._duration.num_rounds}"
        self._say(f"{place}: {self._score('test', test)}")

    def epoch(
        self, epoch: int, train: Score, test: Score | None, optimizer: RoundOptimizer
    ) -> None:
        parts = [self._score("running train", train)]
        if test is not None:
            parts.append(self._score("test", test))
        self._say(f"epoch {epoch + 1}: {'; '.join(parts)}")

    def _score(self, split: str, score: Score) -> str:
        return f"{split} loss {score.loss:.4f}, {self._measure.text(score)}"

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        click.echo(f"{self._cell_name}: {text}")


class Bar:
    """One bar over all rounds of a cell."""

    def __init__(self, cell_name: str, duration: Duration, measure: Measure) -> None:
        self._duration = duration
        self._measure = measure
        width = _WIDE_BAR if shutil.get_terminal_size().columns >= _WIDE_LINE else _NARROW_BAR
        self._bar: Any = click.progressbar(
            length=duration.num_rounds,
            label=cell_name,
            item_show_func=lambda item: item,
            width=width,
            update_min_steps=max(1, duration.num_rounds // 2000),
        )
        self._taken = len(cell_name) + width + _AROUND_BAR
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
        self._bar.update(epoch * self._duration.rounds_per_epoch + round_)

    def step(self, step: Step, optimizer: RoundOptimizer) -> None:
        parts = [f"epoch {step.epoch + 1}/{self._duration.num_epochs}"]
        if step.score is not None:
            parts.append(f"loss {step.score.loss:.4f}")
        if self._test:
            parts.append(self._test)
        if step.score is not None:
            parts.append(self._measure.text(step.score, digits=1))
        parts.append(f"{step.num_bytes:,} B/step")
        self._bar.update(1, self._fitting(parts))

    def evaluating(self, split: str) -> None:
        self._bar.current_item = self._fitting([f"evaluating {split} set"])
        self._bar.render_progress()

    def tested(self, test: Score, optimizer: RoundOptimizer) -> None:
        self._test = f"test {self._measure.number(test)}"

    def _fitting(self, parts: Sequence[str]) -> str:
        """As many of them as the line has room for: one that wraps fills the screen."""
        room = shutil.get_terminal_size().columns - self._taken
        shown = ""
        for part in parts:
            longer = f"{shown}, {part}" if shown else part
            if len(longer) > room:
                break
            shown = longer
        return shown

    def epoch(
        self, epoch: int, train: Score, test: Score | None, optimizer: RoundOptimizer
    ) -> None:
        if test is not None:
            self.tested(test, optimizer)


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
    return sys.stdout is not None and sys.stdout.isatty()

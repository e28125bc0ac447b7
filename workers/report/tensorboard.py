"""A run as TensorBoard shows it: scalars by step and by epoch, bin usage as histograms.

Steps count from 1. torch.utils.tensorboard is imported by who writes, and only there: it takes a
second, and is not installed everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compsgd.optim.round_optimizer import RoundOptimizer
from compsgd.workers.failures import RunError
from compsgd.workers.report.progress import Step
from compsgd.workers.train.duration import Duration
from compsgd.workers.train.measures import Measure
from compsgd.workers.train.scores import Score

FOLDER = "tensorboard"


class TensorBoard:
    """One cell of a sweep, in a folder of its own, which TensorBoard takes for a run.

    Per step: loss and accuracy, or perplexity, of the first worker's batch here, gradient bytes,
    how many workers took part, and what --diagnose has found. Per epoch: the same two on both
    splits, the range, and the bin usage of the epoch's updates. With --evaluate_every the test
    split has its own steps.
    """

    def __init__(self, folder: Path, duration: Duration, measure: Measure) -> None:
        """Args: folder: of the cell. measure: what is shown beside the loss."""
        self._folder = folder
        self._duration = duration
        self._measure = measure
        self._first_step = 1
        self._open_writer: Any = None

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *error: object) -> None:
        if self._open_writer is not None:
            with self._errors():
                self._open_writer.close()

    def resume(self, epoch: int, round_: int) -> None:
        self._first_step = epoch * self._duration.rounds_per_epoch + round_ + 1

    def step(self, step: Step, optimizer: RoundOptimizer) -> None:
        with self._writer() as writer:
            if step.score is not None:
                writer.add_scalar("loss/batch", step.score.loss, optimizer.round)
                measured = self._measure.of(step.score)
                writer.add_scalar(f"{self._measure.name}/batch", measured, optimizer.round)
            writer.add_scalar("bytes_sent/step", step.num_bytes, optimizer.round)
            writer.add_scalar("bytes_sent/total", step.total_bytes, optimizer.round)
            writer.add_scalar("workers/taking_part", len(optimizer.participants), optimizer.round)
            if step.finding is not None:
                writer.add_scalar("diagnosis/cosine", step.finding.cosine, optimizer.round)
                majority = step.finding.mean_majority
                writer.add_scalar("diagnosis/mean_majority", majority, optimizer.round)

    def evaluating(self, split: str) -> None:
        pass

    def tested(self, test: Score, optimizer: RoundOptimizer) -> None:
        with self._writer() as writer:
            for tag, value in self._scalars("test", test).items():
                writer.add_scalar(tag, value, optimizer.round)

    def epoch(
        self, epoch: int, train: Score, test: Score | None, optimizer: RoundOptimizer
    ) -> None:
        scalars = self._scalars("train", train) | (
            {} if test is None else self._scalars("test", test)
        )
        if optimizer.keeps_range:
            scalars |= range_statistics(optimizer)
        counts = optimizer.bin_counts[-self._duration.rounds_of(epoch) :]
        with self._writer() as writer:
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, optimizer.round)
            if counts:
                _add_usage(writer, np.sum(counts, axis=0), optimizer.round)
            writer.flush()

    def _scalars(self, split: str, score: Score) -> dict[str, float]:
        measure = self._measure
        return {f"loss/{split}": score.loss, f"{measure.name}/{split}": measure.of(score)}

    @contextmanager
    def _writer(self) -> Iterator[Any]:
        """Opened when it is first needed, as from `resume` it is known by then which steps come
        again: what an earlier attempt wrote of them no longer counts."""
        from torch.utils.tensorboard import SummaryWriter

        with self._errors():
            if self._open_writer is None:
                self._open_writer = SummaryWriter(str(self._folder), purge_step=self._first_step)
            yield self._open_writer

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write to {self._folder}: {error.strerror or error}") from error


def range_statistics(optimizer: RoundOptimizer) -> dict[str, float]:
    """Of the running maximum and minimum of the workers hosted here: for each the mean and the
    median over a worker's elements, averaged over the workers. Elements that have seen no gradient
    do not count."""
    bounds = [optimizer.worker_range(worker) for worker in optimizer.exchange.hosted]
    found: dict[str, float] = {}
    for side, of_workers in zip(("max", "min"), zip(*bounds, strict=True), strict=True):
        seen = [values for bound in of_workers if (values := _finite(bound)).numel()]
        if seen:
            found[f"range/{side}_mean"] = _mean([values.mean() for values in seen])
            found[f"range/{side}_median"] = _mean([values.median() for values in seen])
    return found


def _finite(bound: Tensor) -> Tensor:
    is_finite = bound.isfinite()
    return bound if is_finite.all() else bound[is_finite]


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).double().mean())


def _add_usage(writer: Any, counts: npt.NDArray[np.int64], step: int) -> None:
    """Args: counts: of the levels -L, ..., L."""
    largest = len(counts) // 2
    levels = np.arange(-largest, largest + 1)
    writer.add_histogram_raw(
        "bin_usage",
        min=-largest,
        max=largest,
        num=int(counts.sum()),
        sum=int(levels @ counts),
        sum_squares=int(levels**2 @ counts),
        bucket_limits=(levels + 0.5).tolist(),
        bucket_counts=counts.tolist(),
        global_step=step,
    )

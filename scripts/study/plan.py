"""Which runs the study has, in which order, and which of them can start now."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from candidates import FURTHER, METHODS, REACH, Method
from tasks import TASKS, TUNING_SEED, Task

TUNE, REPORT = STAGES = ("tune", "report")
_NAME_DIGITS = 6


@dataclass(frozen=True)
class Trial:
    """One run: a method on a task, at a learning rate, from a seed."""

    task: Task
    method: Method
    stage: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder; no two share one."""
        return f"{self.stage}_lr{self.lr:.{_NAME_DIGITS}g}_seed{self.seed}"

    def options(self) -> dict[str, Any]:
        """Of its program, but for the data's folder and its own."""
        own = self.method.at(self.task.kind, self.lr)
        return {**self.task.options, **own, "seed": self.seed}

    @property
    def definition(self) -> str:
        """Changes with anything that it is told; results of another definition are not its own."""
        told = json.dumps([self.method.program, self.options()], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:8]


# The metric of a finished run; None for one that is not finished. A run that diverged has NaN.
Found = Callable[[Trial], float | None]
Part = tuple[str, Sequence[str]]

_FIRST = ("adamw", "vote3", "vote1", "sgdm")
_HOOK = ("hook_adamw_vote3", "hook_adamw_vote1")
_MORE_HOOK = ("ddp_adamw", "hook_sgd_vote3")
_PEERS = ("powersgd1", "powersgd2", "fp16", "lion")
_BITS = ("vote2", "vote4", "vote8")
_SWITCHES = (
    "vote3_no_momentum", "vote3_error_feedback", "vote3_no_exemption", "vote3_as_published",
    "vote3_mean", "vote3_zeros_kept", "vote3_decay_0.9", "vote3_decay_0.999", "vote3_decay_1.0",
    "vote3_momentum_0.95", "vote3_l2_0.1", "vote1_error_feedback", "sgd", "sign_sgd",
)  # fmt: skip
_WORKERS = ("vote3_n8", "adamw_n8", "vote3_n16", "adamw_n16")
_FINALISTS = ("adamw", "vote3", "vote1")

# The most needed first: hours may end anywhere.
PLAN: tuple[Part, ...] = (
    ("lm", _FIRST),
    ("lm", _HOOK),
    ("mnist", _FIRST),
    ("fashion", _FIRST),
    ("lm", (*_PEERS, "signum")),
    ("mnist_mlp", (*_FIRST, "signum", *_BITS, *_SWITCHES)),
    ("lm", _BITS),
    ("lm_base", _FINALISTS),
    ("lm", (*_SWITCHES, "vote3_embeddings_exempt")),
    ("lm", _WORKERS),
    ("lm", _MORE_HOOK),
    ("mnist", (*_HOOK, *_MORE_HOOK, *_PEERS, *_BITS)),
    ("fashion", (*_HOOK, *_MORE_HOOK, *_PEERS, *_BITS)),
)


def planned(plan: Sequence[Part]) -> Iterator[tuple[Task, Method]]:
    """What is compared where, in order."""
    for task, methods in plan:
        for method in methods:
            yield TASKS[task], METHODS[method]


@dataclass(frozen=True)
class Tuning:
    """The learning rates of a method on a task.

    Attributes:
        trials: those to run, as far as that is known, rising.
        values: the metric of each, None where it is still to come.
        best: what is reported, once all are there.
        is_extended: whether the best of the first ones was at an edge.
        is_at_edge: whether it still is.
    """

    trials: Sequence[Trial]
    values: Sequence[float | None]
    best: float | None
    is_extended: bool
    is_at_edge: bool


def tuning(task: Task, method: Method, found: Found) -> Tuning:
    """How far the search for a learning rate is."""
    tuned_on = TASKS[task.tuned_on] if task.tuned_on else task

    def at(place: int) -> Trial:
        return Trial(tuned_on, method, TUNE, method.lr(task.kind, place), TUNING_SEED)

    first = range(-REACH, REACH + 1)
    edge = _best([at(place) for place in first], found)
    places = list(first)
    if edge == 0:
        places = [*range(first[0] - FURTHER, first[0]), *first]
    elif edge == len(first) - 1:
        places = [*first, *range(first[-1] + 1, first[-1] + 1 + FURTHER)]
    trials = [at(place) for place in places]
    best = _best(trials, found)
    return Tuning(
        trials,
        [found(trial) for trial in trials],
        None if best is None else trials[best].lr,
        is_extended=len(trials) > len(first),
        is_at_edge=best in (0, len(trials) - 1),
    )


def _best(trials: Sequence[Trial], found: Found) -> int | None:
    """Which is best; None while any is missing."""
    values = [found(trial) for trial in trials]
    if None in values:
        return None
    ranks = [trial.task.metric.rank(value) for trial, value in zip(trials, values, strict=True)]
    return ranks.index(min(ranks))


def reported(task: Task, method: Method, found: Found) -> list[Trial]:
    """The runs of all seeds at the best learning rate; none while that is not known."""
    best = tuning(task, method, found).best
    if best is None:
        return []
    return [Trial(task, method, REPORT, best, seed) for seed in task.seeds]


def ready(
    pairs: Sequence[tuple[Task, Method]], stages: Sequence[str], found: Found
) -> Iterator[Trial]:
    """Runs without results that can start now, the most needed first."""
    for task, method in pairs:
        known: list[Trial] = []
        if TUNE in stages and not task.tuned_on:
            known += tuning(task, method, found).trials
        if REPORT in stages:
            known += reported(task, method, found)
        yield from (trial for trial in known if found(trial) is None)

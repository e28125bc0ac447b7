"""What the reported seeds of a method say together."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from candidates import Method
from plan import Part, Tuning, planned, reported, tuning
from records import Records, Row
from tasks import Task

_WORKERS = "num_workers"


@dataclass(frozen=True)
class Summary:
    """A method on a task.

    Attributes:
        rows: of the reported seeds that are there.
        num_seeds: that there are to be.
    """

    task: Task
    method: Method
    tuning: Tuning
    rows: Sequence[Row]
    num_seeds: int

    @property
    def is_there(self) -> bool:
        return bool(self.rows)

    @property
    def mean(self) -> float:
        """Of the task's metric; a seed that diverged makes it NaN."""
        return mean(row.metric for row in self.rows)

    @property
    def deviation(self) -> float | None:
        """The standard deviation between seeds; None of a single one."""
        return stdev(row.metric for row in self.rows) if len(self.rows) > 1 else None

    @property
    def bytes_per_step(self) -> float:
        return mean(row.bytes_per_step for row in self.rows)

    @property
    def compression(self) -> float:
        return mean(row.compression for row in self.rows)

    @property
    def num_workers(self) -> int:
        return workers_of(self.task, self.method)

    @property
    def state(self) -> str:
        """What there is of it, in words."""
        if self.is_there:
            done, there_are, noun = len(self.rows), self.num_seeds, "seeds"
        else:
            values = self.tuning.values
            done, there_are = sum(value is not None for value in values), len(values)
            noun = "learning rates tried"
        return f"{done}/{there_are} {noun}" if done else "not run"


def workers_of(task: Task, method: Method) -> int:
    return int({**task.options, **method.options}[_WORKERS])


def summarise(plan: Sequence[Part], task: Task, records: Records) -> list[Summary]:
    """All methods that are planned for a task, in order."""
    return [_summary(task, method, records) for one, method in planned(plan) if one == task]


def _summary(task: Task, method: Method, records: Records) -> Summary:
    trials = reported(task, method, records.metric)
    rows = [row for row in map(records.row, trials) if row is not None]
    return Summary(task, method, tuning(task, method, records.metric), rows, len(task.seeds))


def best_baseline(summaries: Sequence[Summary], num_workers: int) -> Summary | None:
    """The float32 optimizer of so many workers with the best mean; None if there is none yet."""
    baselines = [
        one
        for one in summaries
        if one.method.is_baseline and one.is_there and one.num_workers == num_workers
    ]
    return min(baselines, key=lambda one: one.task.metric.rank(one.mean), default=None)

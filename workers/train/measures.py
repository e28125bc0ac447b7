"""What is shown beside the loss, and under which names: accuracy of images, perplexity of text."""

from collections.abc import Callable
from typing import NamedTuple

from compsgd.workers.data.datasets import TEXTS
from compsgd.workers.train.scores import BatchScore, Score


class Column(NamedTuple):
    """Of the table at the end of a run.

    Attributes:
        head: what stands above it.
        result: the entry of result.json that it shows.
        digits: behind the point.
    """

    head: str
    result: str
    digits: int


class Measure(NamedTuple):
    """
    Attributes:
        key: in the names of metrics and results, as in test_acc_hist.
        name: in words.
        unit: behind a number.
        of: its value.
        columns: which results the table shows.
    """

    key: str
    name: str
    unit: str
    of: Callable[[BatchScore | Score], float]
    columns: tuple[Column, ...]

    @property
    def results(self) -> list[str]:
        """The entries of result.json that the table shows."""
        return [column.result for column in self.columns]

    def number(self, score: BatchScore | Score, digits: int = 2) -> str:
        return format_number(self.of(score), digits) + self.unit

    def text(self, score: BatchScore | Score, digits: int = 2) -> str:
        return f"{self.name} {self.number(score, digits)}"


ACCURACY = Measure(
    "acc", "accuracy", " %", lambda score: score.accuracy,
    (Column("final train acc %", "train_acc", 2), Column("final test acc %", "test_acc", 2)),
)  # fmt: skip
PERPLEXITY = Measure(
    "perplexity", "perplexity", "", lambda score: score.perplexity,
    (
        Column("final train loss (nats)", "train_loss", 4),
        Column("final test loss (nats)", "test_loss", 4),
        Column("final train perplexity", "train_perplexity", 2),
        Column("final test perplexity", "test_perplexity", 2),
    ),
)  # fmt: skip


def measure_of(dataset: str) -> Measure:
    """What is shown of a data set, by its name."""
    return PERPLEXITY if dataset in TEXTS else ACCURACY


def format_number(value: float | None, digits: int) -> str:
    """None is what JSON has where a run diverged; a number that is too long is cut short."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if value < 1e6 else f"{value:.2e}"

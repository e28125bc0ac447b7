"""What is trained in the study: model, data and length, and which seeds tune and report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

TEXT, IMAGES = "text", "images"
TUNING_SEED = 100

# As of every run; `compsgd train`, ddp_run.py and lion_run.py name them alike.
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """What runs of a task are compared by.

    Attributes:
        result: its name among the results of a run.
        title: in tables and figures.
        digits: behind the point.
        is_loss: whether less is better.
    """

    result: str
    title: str
    digits: int
    is_loss: bool

    def rank(self, value: float | None) -> float:
        """Less is better; a run that diverged is worst."""
        if value is None or value != value:
            return inf
        return value if self.is_loss else -value


HELD_OUT_LOSS = Metric("test_loss", "held-out loss (nats)", 4, is_loss=True)
TEST_ACCURACY = Metric("test_acc", "test accuracy (%)", 2, is_loss=False)


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        name: in the tables, and of folders.
        title: in words.
        kind: which of a method's centres of learning rates is meant for it, TEXT or IMAGES.
        metric: what is compared.
        options: of its runs; those of a method win.
        data: its folder below --data.
        seeds: that are reported; none of them has tuned anything.
        tuned_on: the task whose best learning rates it takes; empty for its own.
    """

    name: str
    title: str
    kind: str
    metric: Metric
    options: Options = field(hash=False)
    data: str = "."
    seeds: tuple[int, ...] = (0, 1, 2)
    tuned_on: str = ""


_EVERY = {"num_workers": 4, "lr_schedule": "cosine"}
_TEXT = _EVERY | {
    "model": "gpt", "dataset": "text", "context": 64, "batch_size": 16, "steps": 1500,
    "warmup": 0.25,
}  # fmt: skip
_IMAGES = _EVERY | {"model": "vanilla_cnn", "batch_size": 64, "epochs": 5, "warmup": 0.1}

_ALL = (
    Task(
        "lm",
        "A transformer of 164 k parameters on text: 4 workers, 16 sequences of 64 characters "
        "each, 1500 rounds, a quarter of them warm-up.",
        TEXT,
        HELD_OUT_LOSS,
        _TEXT | {"model_size": "small"},
        data="text",
    ),
    Task(
        "lm_base",
        "The same with 1 M parameters.",
        TEXT,
        HELD_OUT_LOSS,
        _TEXT | {"model_size": "base"},
        data="text",
    ),
    Task(
        "mnist",
        "A CNN of 3.2 M parameters on MNIST: 4 workers, 64 images each, 5 epochs.",
        IMAGES,
        TEST_ACCURACY,
        _IMAGES | {"dataset": "MNIST"},
        seeds=(0, 1, 2, 3, 4),
    ),
    Task(
        "fashion",
        "The same on Fashion-MNIST, with the learning rates found on MNIST.",
        IMAGES,
        TEST_ACCURACY,
        _IMAGES | {"dataset": "FashionMNIST"},
        seeds=(0, 1, 2, 3, 4),
        tuned_on="mnist",
    ),
    Task(
        "mnist_mlp",
        "A perceptron of 235 k parameters on MNIST: 4 workers, 64 images each, 3 epochs.",
        IMAGES,
        TEST_ACCURACY,
        _IMAGES | {"dataset": "MNIST", "model": "mlp", "epochs": 3},
    ),
)
TASKS = {task.name: task for task in _ALL}

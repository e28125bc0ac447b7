"""What every run has alike, whoever exchanges its gradients: data, initial weights, batches, seeds,
schedule and evaluation of `compsgd train`, under the same options."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from torch import nn

from compsgd.workers.commands.path_option import PathOption
from compsgd.workers.data.datasets import BatchPlan, load_dataset
from compsgd.workers.data.splits import Dataset
from compsgd.workers.train.models import build_model
from compsgd.workers.train.schedule import count_warmup_rounds, lr_of_round


@dataclass(frozen=True)
class Problem:
    """The options; see `compsgd train --help`."""

    model: str
    model_size: str
    context: int
    dataset: str
    dataset_root: Path
    batch_size: int
    num_workers: int
    epochs: int
    steps: int | None
    lr: float
    lr_schedule: str
    warmup: float
    seed: int
    log_dir: Path
    exp_name: str

    @property
    def folder(self) -> Path:
        """Of the results."""
        return self.log_dir / self.exp_name

    def load(self) -> Dataset:
        return load_dataset(self.dataset, self.dataset_root, download=False, context=self.context)

    def build(self, dataset: Dataset) -> nn.Module:
        return build_model(self.model, dataset.format, self.seed, size=self.model_size)

    def batches(self, dataset: Dataset) -> BatchPlan:
        return BatchPlan(
            len(dataset.train), self.batch_size, self.num_workers, self.seed, shuffle=True
        )

    def num_rounds(self, batches: BatchPlan) -> int:
        return self.epochs * batches.num_rounds if self.steps is None else self.steps

    def lr_of(self, round_: int, num_rounds: int) -> float:
        """Of a round, from 0."""
        num_warmup_rounds = count_warmup_rounds(self.warmup, num_rounds)
        return lr_of_round(self.lr, self.lr_schedule, round_, num_rounds, num_warmup_rounds)


_OPTIONS = [
    click.option("--model", required=True),
    click.option("--model_size", default="small"),
    click.option("--context", type=int, default=64),
    click.option("--dataset", required=True),
    click.option("--dataset_root", type=PathOption(), default=Path("data")),
    click.option("--batch_size", type=int, required=True),
    click.option("--num_workers", type=int, required=True),
    click.option("--epochs", type=int, default=1),
    click.option("--steps", type=int, default=None),
    click.option("--lr", type=float, required=True),
    click.option("--lr_schedule", default="constant"),
    click.option("--warmup", type=float, default=0.0),
    click.option("--seed", type=int, default=0),
    click.option("--log_dir", type=PathOption(), required=True),
    click.option("--exp_name", required=True),
]


def problem_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a command whose further options say how gradients are exchanged; it is called with
    a Problem and those."""

    def take(**values: Any) -> Any:
        own = {name: values.pop(name) for name in Problem.__dataclass_fields__}
        return command(Problem(**own), **values)

    take.__doc__ = command.__doc__
    take.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(_OPTIONS):
        take = option(take)
    return take

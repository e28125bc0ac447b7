"""Test accuracy of an existing recipe through the hook, beside plain DistributedDataParallel.

python scripts/bench/hook_accuracy.py --dataset_root data --dataset MNIST FashionMNIST

Adam and SGD with momentum, with the learning rates that plain DDP would be given. In the rows
"vote" momentum is in the vote, and the learning rate follows from plain DDP's by a rule; in those
of "vote after momentum" only the hook differs. None of them is tuned.
"""

import logging
import os
import statistics
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm import register_vote_hook
from compsgd.workers.commands.path_option import PathOption
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.data.datasets import load_dataset
from compsgd.workers.data.splits import Dataset
from compsgd.workers.launch.spawning import start_processes
from compsgd.workers.report.tables import format_table
from compsgd.workers.train.models import IMAGE_MODELS, build_model

PLAIN = "plain"
MOMENTUM = 0.9
_RECIPE = {
    "momentum": MOMENTUM, "decay_min": 0.99, "decay_max": 0.99, "exempt_1d": True,
}  # fmt: skip
HOOKS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "vote, 3 bits": {"num_bits": 3, **_RECIPE},
    "vote, 1 bit": {"num_bits": 1, **_RECIPE},
    "vote after momentum, 3 bits": {"num_bits": 3, "decay_min": 0.9, "decay_max": 0.9},
}


def adam(parameters: Any, in_vote: bool) -> torch.optim.Optimizer:
    """A running mean is smaller than what it is taken of: Adam, which divides by the size of what
    it gets, would take larger steps, by 3 or so."""
    if in_vote:
        return torch.optim.Adam(parameters, lr=1e-3 / 3, betas=(0.0, 0.99))
    return torch.optim.Adam(parameters, lr=1e-3)


def sgd(parameters: Any, in_vote: bool) -> torch.optim.Optimizer:
    """SGD's momentum is a running sum, 1 / (1 - momentum) as large as the vote's running mean."""
    if in_vote:
        return torch.optim.SGD(parameters, lr=0.05 / (1 - MOMENTUM))
    return torch.optim.SGD(parameters, lr=0.05, momentum=MOMENTUM)


OPTIMIZERS = {"Adam, 0.001": adam, "SGD, 0.05, momentum 0.9": sgd}


def accuracy(model: nn.Module, data: Dataset) -> float:
    """In percent, on the test set."""
    model.eval()
    correct = 0
    with torch.no_grad():
        for index in torch.arange(len(data.test)).split(1000):
            images, labels = data.test.batch(index, torch.device("cpu"))
            correct += int((model(images).argmax(1) == labels).sum())
    return 100 * correct / len(data.test)


def train(data: Dataset, model_name: str, hook: str, optimizer_name: str, epochs: int,
          batch_size: int, seed: int) -> float:  # fmt: skip
    """One run; each process has its own part of every epoch's images."""
    rank, size = dist.get_rank(), dist.get_world_size()
    model = build_model(model_name, data.format, seed)
    ddp = DistributedDataParallel(model)
    optimizer = OPTIMIZERS[optimizer_name](ddp.parameters(), "momentum" in HOOKS[hook])
    if hook != PLAIN:
        register_vote_hook(ddp, optimizer=optimizer, scale="mean_abs", seed=seed, **HOOKS[hook])
    torch.manual_seed(1000 * seed + rank)
    for epoch in range(epochs):
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(epoch))
        mine = order[: len(order) // (size * batch_size) * size * batch_size].view(-1, size)
        for index in mine[:, rank].split(batch_size):
            images, labels = data.train.batch(index, torch.device("cpu"))
            optimizer.zero_grad()
            nn.functional.cross_entropy(ddp(images), labels).backward()
            optimizer.step()
    return accuracy(model, data)


def all_runs(dataset: str, root: Path, model: str, epochs: int, batch_size: int,
             seeds: int) -> list[tuple[str, str, list[float]]]:  # fmt: skip
    """On every rank, of each optimizer and hook, the accuracies of all seeds."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo", timeout=timedelta(minutes=30))
    if dist.get_rank() == 0:
        load_dataset(dataset, root, download=True)
    dist.barrier()
    data = load_dataset(dataset, root, download=False)
    found = [
        (optimizer, hook, [
            train(data, model, hook, optimizer, epochs, batch_size, seed) for seed in range(seeds)
        ])
        for optimizer in OPTIMIZERS
        for hook in HOOKS
    ]  # fmt: skip
    dist.destroy_process_group()
    return found


@click.command(cls=SpreadingCommand)
@click.option("--dataset", "datasets", multiple=True, default=["digits"], show_default=True)
@click.option("--dataset_root", type=PathOption(), default=Path("data"))
@click.option("--model", type=click.Choice(IMAGE_MODELS), default="vanilla_cnn", show_default=True)
@click.option("--num_processes", type=click.IntRange(min=2), default=4, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--batch_size", type=click.IntRange(min=1), default=32, show_default=True,
              help="Of each process.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
def main(
    datasets: tuple[str, ...], dataset_root: Path, model: str, num_processes: int, epochs: int,
    batch_size: int, seeds: int,
) -> None:  # fmt: skip
    """Prints test accuracies in percent, means over the seeds."""
    logging.disable(logging.WARNING)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    columns = {}
    for dataset in datasets:
        args = dataset, dataset_root, model, epochs, batch_size, seeds
        found = start_processes(num_processes, all_runs, *args)[0]
        columns[dataset] = {(optimizer, hook): values for optimizer, hook, values in found}
    rows = [
        [optimizer, hook, *(f"{statistics.mean(c[optimizer, hook]):.2f}" for c in columns.values())]
        for optimizer in OPTIMIZERS
        for hook in HOOKS
    ]
    click.echo(f"test accuracy in %, {num_processes} processes, {epochs} epochs, {seeds} seeds\n")
    click.echo(format_table(["optimizer", "hook", *columns], rows))


if __name__ == "__main__":
    main()

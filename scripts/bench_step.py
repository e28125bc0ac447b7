"""A whole training step through DistributedDataParallel, with different communication hooks.

python scripts/bench_step.py --num_processes 2 4

ResNet-18 of 11.7 M parameters, a batch of small random images for each process, SGD with momentum;
all hooks in turns in the same processes, over gloo on loopback. `exposed` is what a step takes
longer than one without communication: what overlapping with backward does not hide. PowerSGD runs
with one bucket, because torch's aborts with several over gloo.
"""

import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import click
import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm import wrap
from compsgd.workers.spreading import SpreadingCommand
from compsgd.workers.tables import format_table
from compsgd.workers.timing import machine

ALONE = "no communication"
PLAIN = "plain DDP"
_WARM_UP = 5
_ONE_BUCKET_MB = 1000


def fp16(ddp: DistributedDataParallel) -> None:
    ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)


def powersgd(ddp: DistributedDataParallel, rank: int) -> None:
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2)
    ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


def vote(ddp: DistributedDataParallel, num_bits: int) -> None:
    wrap(ddp, num_bits=num_bits, scale="mean_abs", exempt_1d=True, compile="on")


class Training:
    """One model on its way, with its hook."""

    def __init__(self, hook: Callable[[DistributedDataParallel], None] | None = None,
                 *, bucket_cap_mb: int = 25, is_quiet: bool = False) -> None:  # fmt: skip
        torch.manual_seed(0)
        model = torchvision.models.resnet18()
        self.ddp = DistributedDataParallel(model, bucket_cap_mb=bucket_cap_mb)
        if hook is not None:
            hook(self.ddp)
        self.optimizer = torch.optim.SGD(self.ddp.parameters(), lr=0.01, momentum=0.9)
        self.is_quiet = is_quiet

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        with self.ddp.no_sync() if self.is_quiet else nullcontext():
            nn.functional.cross_entropy(self.ddp(images), labels).backward()
        self.optimizer.step()


def trainings() -> dict[str, Training]:
    one = _ONE_BUCKET_MB
    return {
        ALONE: Training(is_quiet=True),
        PLAIN: Training(),
        "fp16": Training(fp16),
        "PowerSGD, rank 1": Training(lambda ddp: powersgd(ddp, 1), bucket_cap_mb=one),
        "PowerSGD, rank 2": Training(lambda ddp: powersgd(ddp, 2), bucket_cap_mb=one),
        "vote, 1 bit": Training(lambda ddp: vote(ddp, 1)),
        "vote, 3 bits": Training(lambda ddp: vote(ddp, 3)),
        "vote, 4 bits": Training(lambda ddp: vote(ddp, 4)),
    }


def measure_steps(batch_size: int, image_size: int, repeats: int) -> dict[str, float]:
    """On every rank the median milliseconds of a step of each, all of them in turns."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    generator = torch.Generator().manual_seed(dist.get_rank())
    images = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
    labels = torch.randint(1000, (batch_size,), generator=generator)
    cases = trainings()
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(_WARM_UP + repeats):
        for name, training in cases.items():
            dist.barrier()
            began = time.perf_counter()
            training.step(images, labels)
            dist.barrier()
            times[name].append(time.perf_counter() - began)
    dist.destroy_process_group()
    return {name: statistics.median(all_[_WARM_UP:]) * 1e3 for name, all_ in times.items()}


def table(found: dict[str, float]) -> str:
    rows = [
        [name, f"{ms:.0f}", f"{ms - found[ALONE]:.0f}", f"{found[PLAIN] / ms:.2f}x"]
        for name, ms in found.items()
    ]
    return format_table(["whole training step", "ms", "exposed ms", "plain / this"], rows)


def launch(num_processes: int, *args: Any) -> dict[str, float]:
    config = LaunchConfig(
        1, 1, num_processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, start_method="spawn",
    )  # fmt: skip
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found: dict[str, float] = elastic_launch(config, measure_steps)(*args)[0]
    return found


@click.command(cls=SpreadingCommand)
@click.option("--num_processes", type=click.IntRange(min=2), multiple=True, default=[2, 4])
@click.option("--batch_size", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--image_size", type=click.IntRange(min=32), default=32, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=15, show_default=True)
def main(num_processes: tuple[int, ...], batch_size: int, image_size: int, repeats: int) -> None:
    """Prints a table for each number of processes."""
    logging.disable(logging.WARNING)
    click.echo(f"{machine()['cpu']}, torch {torch.__version__}, python {sys.version.split()[0]}")
    for count in num_processes:
        found = launch(count, batch_size, image_size, repeats)
        click.echo(f"\n{count} processes, a thread and {batch_size} images each\n")
        click.echo(table(found))


if __name__ == "__main__":
    main()

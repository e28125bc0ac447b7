"""A whole training step through DistributedDataParallel, with different communication hooks.

python scripts/bench/step.py --num_processes 2 4
sudo python scripts/bench/step.py --num_processes 2 4 --link 1gbit

ResNet-18 of 11.7 M parameters, a batch of small random images for each process, SGD with momentum;
all hooks in turns in the same processes, over gloo on loopback, or over links between network
namespaces that are shaped to a rate. `exposed` is what a step takes longer than one without
communication: what overlapping with backward does not hide. "one bucket" is a bucket_cap_mb that
holds the whole model; PowerSGD runs so because torch's aborts with several over gloo, the rest
with torch's default of 25 MB.
"""

import contextlib
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
import torchvision
from netlab import INTERFACE, LabError, Link, network
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from compsgd.codec.compiling import COMPILE_CHOICES
from compsgd.comm import register_vote_hook
from compsgd.workers.bench.timing import machine
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.report.tables import format_table

ALONE = "no communication"
PLAIN = "plain DDP"
_VOTES = {"vote, 1 bit": 1, "vote, 3 bits": 3, "vote, 4 bits": 4}
_WARM_UP = 5
_ONE_BUCKET_MB = 1000


def fp16(ddp: DistributedDataParallel) -> None:
    ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)


def powersgd(ddp: DistributedDataParallel, rank: int) -> None:
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2)
    ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


def vote(ddp: DistributedDataParallel, num_bits: int, compile_: str) -> None:
    register_vote_hook(ddp, num_bits=num_bits, scale="mean_abs", exempt_1d=True, compile=compile_)


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
        with self.ddp.no_sync() if self.is_quiet else contextlib.nullcontext():
            nn.functional.cross_entropy(self.ddp(images), labels).backward()
        self.optimizer.step()


def trainings(compile_: str) -> dict[str, Training]:
    def voting(num_bits: int, **settings: Any) -> Training:
        return Training(lambda ddp: vote(ddp, num_bits, compile_), **settings)

    one: dict[str, Any] = {"bucket_cap_mb": _ONE_BUCKET_MB}
    return {
        ALONE: Training(is_quiet=True),
        PLAIN: Training(),
        f"{PLAIN}, one bucket": Training(**one),
        "fp16": Training(fp16),
        "PowerSGD 1, one bucket": Training(lambda ddp: powersgd(ddp, 1), **one),
        "PowerSGD 2, one bucket": Training(lambda ddp: powersgd(ddp, 2), **one),
        **{name: voting(num_bits) for name, num_bits in _VOTES.items()},
        **{f"{name}, one bucket": voting(num_bits, **one) for name, num_bits in _VOTES.items()},
    }


def measure_steps(
    batch_size: int, image_size: int, repeats: int, compile_: str
) -> dict[str, float]:
    """The median milliseconds of a step of each, all of them in turns; in a process with the
    environment of a rank."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    generator = torch.Generator().manual_seed(dist.get_rank())
    images = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
    labels = torch.randint(1000, (batch_size,), generator=generator)
    cases = trainings(compile_)
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


def launch(count: int, prefixes: list[list[str]], variables: dict[str, str],
           settings: dict[str, Any]) -> dict[str, float]:  # fmt: skip
    """Measures in `count` ranks, each started behind its prefix; what rank 0 found."""
    code = "import json, step; print(json.dumps(step.measure_steps(**{})))"
    command = [sys.executable, "-c", code.format(settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count)} | variables
    ranks = [
        subprocess.Popen(
            [*prefix, *command], env=environment | {"RANK": str(rank)}, text=True,
            cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank, prefix in enumerate(prefixes)
    ]  # fmt: skip
    try:
        ends = [rank.communicate() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, stderr) in zip(ranks, ends, strict=True):
        if rank.returncode:
            raise click.ClickException(f"a rank failed:\n{stderr}")
    found: dict[str, float] = json.loads(ends[0][0])
    return found


def measure(count: int, link: str | None, settings: dict[str, Any]) -> dict[str, float]:
    port = str(_free_port())
    if link is None:
        variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return launch(count, [[]] * count, variables, settings)
    with network(count, Link(link)) as hosts:
        variables = {"MASTER_ADDR": hosts[0].address, "MASTER_PORT": port,
                     "GLOO_SOCKET_IFNAME": INTERFACE}  # fmt: skip
        return launch(count, [host.prefix for host in hosts], variables, settings)


def report(count: int, link: str | None, **settings: Any) -> None:
    """Measures, and prints the table.

    Args:
        count: of processes.
        link: the rate of their links; None for loopback.
        settings: of measure_steps.
    """
    try:
        found = measure(count, link, settings)
    except LabError as error:
        raise click.UsageError(str(error)) from error
    where = f"links of {link}" if link else "loopback"
    images = settings["batch_size"]
    click.echo(f"\n{count} processes, a thread and {images} images each, {where}\n")
    click.echo(table(found))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
        return port


@click.command(cls=SpreadingCommand)
@click.option("--num_processes", type=click.IntRange(min=2), multiple=True, default=[2, 4])
@click.option("--batch_size", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--image_size", type=click.IntRange(min=32), default=32, show_default=True)
@click.option("--link", default=None, metavar="RATE", help="As tc writes it; loopback without.")
@click.option("--repeats", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--compile", "compile_", type=click.Choice(COMPILE_CHOICES), default="on")
def main(
    num_processes: tuple[int, ...], batch_size: int, image_size: int, link: str | None,
    repeats: int, compile_: str,
) -> None:  # fmt: skip
    """Prints a table for each number of processes."""
    logging.disable(logging.WARNING)
    click.echo(f"{machine()['cpu']}, torch {torch.__version__}, python {sys.version.split()[0]}")
    for count in num_processes:
        report(count, link, batch_size=batch_size, image_size=image_size, repeats=repeats,
               compile_=compile_)  # fmt: skip


if __name__ == "__main__":
    main()

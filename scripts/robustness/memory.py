"""Whether memory, open files and threads stay as they are over many steps.

python scripts/robustness/memory.py --steps 10000

Two processes train, over gloo: through the optimizer, through the hook, and through the aggregator,
one after the other. Exits with 1 if anything has grown between a tenth of the steps and their end:
memory by more than 2 %, files or threads by one.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import compsgd
from compsgd.comm import register_vote_hook
from compsgd.workers.report.tables import markdown_table

_NUM_PROCESSES = 2
_MOST_GROWTH = 1.02
_SETTINGS = {"momentum": 0.9, "decay_min": 0.99, "decay_max": 0.99, "compile": "native"}

Usage = tuple[int, int, int]


def _usage() -> Usage:
    """Resident bytes, open files, threads of the operating system."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(list(Path("/proc/self/fd").iterdir())),
        len(list(Path("/proc/self/task").iterdir())),
    )


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))


def _loss(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = model(torch.randn(8, 64)).square().mean()
    return loss


def _with_optimizer() -> Callable[[], None]:
    model = _model()
    optimizer = compsgd.CompressedSGDVote(
        model.parameters(), 1e-4, process_group=dist.group.WORLD, exempt_1d=True, **_SETTINGS
    )

    def step() -> None:
        optimizer.zero_grad()
        _loss(model).backward()
        optimizer.step()

    return step


def _with_hook() -> Callable[[], None]:
    ddp = DistributedDataParallel(_model(), bucket_cap_mb=0.02)
    register_vote_hook(ddp, scale="mean_abs", error_feedback=True, **_SETTINGS)
    adam = torch.optim.AdamW(ddp.parameters(), lr=1e-3, betas=(0.0, 0.99))

    def step() -> None:
        adam.zero_grad()
        _loss(ddp).backward()
        adam.step()

    return step


def _with_aggregator() -> Callable[[], None]:
    model = _model()
    aggregator = compsgd.VoteAggregator(
        model.parameters(), scale="mean_abs", verify_fraction=0.1, **_SETTINGS
    )
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.0, 0.99))

    def step() -> None:
        adam.zero_grad()
        _loss(model).backward()
        aggregator.aggregate()
        adam.step()

    return step


CLIENTS = {"optimizer": _with_optimizer, "hook": _with_hook, "aggregator": _with_aggregator}


def _train(rank: int, store: str, num_steps: int, results: str) -> None:
    """Writes each client's usage at a tenth of the steps and at their end."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, _NUM_PROCESSES), rank=rank, world_size=_NUM_PROCESSES
    )
    lines = []
    for name, make in CLIENTS.items():
        step = make()
        for number in range(1, num_steps + 1):
            step()
            if number in (num_steps // 10, num_steps):
                lines.append(f"{name} {' '.join(map(str, _usage()))} {threading.active_count()}")
    Path(f"{results}{rank}").write_text("\n".join(lines))
    dist.barrier()
    dist.destroy_process_group()


def _rows(lines: Sequence[str]) -> list[list[str]]:
    rows = []
    for early, late in zip(lines[::2], lines[1::2], strict=True):
        name, *before = early.split()
        after = late.split()[1:]
        mib = [f"{int(one[0]) / 2**20:.1f}" for one in (before, after)]
        is_flat = int(after[0]) <= int(before[0]) * _MOST_GROWTH and before[1:] == after[1:]
        counts = [f"{then} -> {now}" for then, now in zip(before[1:3], after[1:3], strict=True)]
        rows.append([name, " -> ".join(mib), *counts, "flat" if is_flat else "GROWS"])
    return rows


@click.command()
@click.option("--steps", type=click.IntRange(min=10), default=10_000, show_default=True)
def main(steps: int) -> None:
    """Prints what rank 0 used after a tenth of the steps, and after all of them."""
    with tempfile.TemporaryDirectory() as folder:
        results = f"{folder}/usage"
        mp.spawn(_train, (f"{folder}/store", steps, results), nprocs=_NUM_PROCESSES)
        rows = _rows(Path(f"{results}0").read_text().split("\n"))
    head = ["client", "resident MiB", "open files", "threads", f"over {steps:,} steps"]
    click.echo(markdown_table(head, rows))
    if any(row[-1] == "GROWS" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""A whole training step through DistributedDataParallel, with different communication hooks.

python scripts/bench/step.py --num_processes 2 4
sudo python scripts/bench/step.py --num_processes 2 4 --link 1gbit

ResNet-18 of 11.7 M parameters, a batch of small random images for each process, SGD with momentum;
all hooks in turns in the same processes, over gloo on loopback, or over links between network
namespaces that are shaped to a rate. `exposed` is what a step takes longer than one without
communication: what overlapping with backward does not hide. `bytes` is the time that what a process
sends takes on its link. "one bucket" is a bucket_cap_mb that holds the whole model; PowerSGD runs
so because torch's aborts with several over gloo, the rest with torch's default of 25 MB.
"""

import sys
from pathlib import Path
from typing import Any

import click
import torch
from netlab import LabError, Link, ask_ranks, places
from steps import ALONE, MODELS, ONE_BUCKET, STEP, vote_name

from compsgd.workers.bench.timing import machine
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.report.tables import markdown_table

PLAIN = "float32"
_VOTES = [vote_name(num_bits) for num_bits in (1, 3, 4)]
METHODS = [
    ALONE, PLAIN, f"{PLAIN}{ONE_BUCKET}", "bf16", "fp16",
    f"PowerSGD 1{ONE_BUCKET}", f"PowerSGD 2{ONE_BUCKET}",
    *_VOTES, *(f"{name}{ONE_BUCKET}" for name in _VOTES),
]  # fmt: skip


def measure(count: int, link: Link | None, model: str, num_steps: int) -> list[dict[str, Any]]:
    """What rank 0 has found, a record for each of METHODS.

    Raises:
        LabError: there can be no such network, or a rank fails.
    """
    what = {"model": model, "methods": METHODS, "kinds": [STEP], "in_turns": True,
            "num_steps": num_steps, "budget_s": 0.0}  # fmt: skip
    with places(count, link) as where:
        found: list[dict[str, Any]] = ask_ranks(where, Path(__file__).with_name("steps.py"), what)
    return found


def table(found: list[dict[str, Any]], bits_per_s: float) -> str:
    ms = {one["method"]: one["median_s"] * 1e3 for one in found}
    rows = [
        [
            one["method"],
            f"{ms[one['method']]:.0f}",
            f"{ms[one['method']] - ms[ALONE]:.0f}",
            f"{one['sent_bytes'] * 8 / bits_per_s * 1e3:.0f}",
            f"{ms[PLAIN] / ms[one['method']]:.2f}x",
        ]
        for one in found
    ]
    head = ["whole training step", "ms", "exposed ms", "bytes ms", f"{PLAIN} / this"]
    return markdown_table(head, rows)


@click.command(cls=SpreadingCommand)
@click.option("--num_processes", type=click.IntRange(min=2), multiple=True, default=[2, 4])
@click.option("--model", type=click.Choice(tuple(MODELS)), default="resnet18", show_default=True)
@click.option("--link", default=None, metavar="RATE", help="As tc writes it; loopback without.")
@click.option("--repeats", type=click.IntRange(min=1), default=15, show_default=True)
def main(num_processes: tuple[int, ...], model: str, link: str | None, repeats: int) -> None:
    """Prints a table for each number of processes."""
    python = sys.version.split()[0]
    click.echo(f"{machine()['cpu']}, torch {torch.__version__}, python {python}", err=True)
    where = f"links of {link}" if link else "loopback"
    try:
        shape = Link(link) if link else None
        for count in num_processes:
            found = measure(count, shape, model, repeats)
            click.echo(f"\n{count} processes, a thread each, {model}, {where}\n")
            click.echo(table(found, shape.bits_per_s if shape else float("inf")))
    except LabError as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()

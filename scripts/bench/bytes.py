"""Predicted, recorded and kernel-counted gradient bytes, side by side, for N = 2, 4, 8 processes.

python scripts/bench/bytes.py --dataset MNIST --dataset_root data
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from compsgd.comm.traffic.cost import StepCost, ring_all_reduce
from compsgd.history import read_histories
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.data.datasets import IMAGE_FORMATS
from compsgd.workers.report.tables import format_table
from compsgd.workers.train.models import build_model

LAUNCH = Path(__file__).resolve().parents[2] / "launch.py"
RUNS = {
    "float32 all-reduce": ["--optimizer", "sgd", "--lr", "0.1"],
    "all_gather": ["--exchange", "all_gather", "--lr", "0.0001"],
    "scatter_reduce": ["--exchange", "scatter_reduce", "--lr", "0.0001"],
}
# What costs time and is not sent is left out, so that seconds are comparable over versions.
PLAIN = ["--range_decay", "1", "--momentum", "0", "--lr_schedule", "constant", "--warmup", "0",
         "--l2", "0"]  # fmt: skip


@click.command(cls=SpreadingCommand)
@click.option("--dataset", type=click.Choice(list(IMAGE_FORMATS)), default="digits")
@click.option("--dataset_root", default="data")
@click.option("--model", default="vanilla_cnn")
@click.option("--batch_size", default=512)
@click.option("--num_workers", multiple=True, type=int, default=[2, 4, 8])
def main(
    dataset: str, dataset_root: str, model: str, batch_size: int, num_workers: tuple[int, ...]
) -> None:
    """Trains one epoch per exchange and number of workers; prints a table."""
    options = ["--dataset", dataset, "--dataset_root", dataset_root, "--model", model]
    options += ["--batch_size", str(batch_size)]
    parameters = list(build_model(model, IMAGE_FORMATS[dataset], seed=0).parameters())
    cost = StepCost(sum(p.numel() for p in parameters), len(parameters), 3, zeros=False)
    head = ["workers, exchange", "predicted", "ledger", "kernel", "kernel/ledger", "rate", "s/step"]
    rows = []
    for workers in num_workers:
        uncompressed = 0.0
        for exchange, settings in RUNS.items():
            ledger, kernel, seconds = measure(workers, [*options, *PLAIN, *settings])
            uncompressed = uncompressed or kernel
            rows.append(
                [
                    f"{workers} {exchange}",
                    f"{predict(cost, exchange, workers):,}",
                    f"{ledger:,.0f}",
                    f"{kernel:,.0f}",
                    f"{kernel / ledger:.5f}",
                    f"{uncompressed / kernel:.2f}x",
                    f"{seconds:.3f}",
                ]
            )
    click.echo("gradient bytes per worker and step; rate against the all-reduce measured here\n")
    click.echo(format_table(head, rows))


def predict(cost: StepCost, exchange: str, workers: int) -> int:
    if exchange == "float32 all-reduce":
        return ring_all_reduce(cost.numel, workers)
    predicted: int = getattr(cost, exchange)(workers)
    return predicted


def measure(workers: int, options: list[str]) -> tuple[float, float, float]:
    """Ledger's and kernel's bytes per worker and step, and the median seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(LAUNCH), "--num_workers", str(workers), *options]
        command += ["--epochs", "1", "--verify_bytes", "--log_dir", folder, "--exp_name", "run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run = Path(folder) / "run"
        (cell,) = json.loads((run / "result.json").read_text())["cells"]
        (history,) = read_histories(run / "histories.pkl").values()
    steps = cell["num_steps"] * workers
    seconds = statistics.median(history["seconds_hist"])
    return cell["wire_bytes_sent"] / steps, cell["kernel_bytes_sent"] / steps, seconds


if __name__ == "__main__":
    main()

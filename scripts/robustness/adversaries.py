"""Accuracy on MNIST while some of eight workers attack: the vote against the float32 mean.

python scripts/robustness/adversaries.py --dataset_root data
"""

import contextlib
import io
import json
import logging
import tempfile
from pathlib import Path

import click

from compsgd.codec.compiling import COMPILE_CHOICES
from compsgd.workers.commands.cli import train
from compsgd.workers.commands.path_option import PathOption
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.options import ATTACKS
from compsgd.workers.report.tables import markdown_table

OPTIMIZERS = {
    "3-bit vote": ["--optimizer", "compressed_sgd_vote", "--lr", "0.0003", "--range_decay", "0.3"],
    "sign vote": ["--optimizer", "sign_sgd", "--lr", "0.001"],
    "float32 mean": ["--optimizer", "sgd", "--lr", "0.1"],
}
# The published algorithm: without momentum, which would let a worker's past speak for it.
SETTINGS = ["--num_workers", "8", "--threads", "1", "--momentum", "0", "--lr_schedule", "constant",
            "--warmup", "0", "--l2", "0"]  # fmt: skip


@click.command(cls=SpreadingCommand)
@click.option("--dataset", default="MNIST", show_default=True)
@click.option("--dataset_root", type=PathOption(), default=Path("data"))
@click.option("--model", default="mlp", show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--compile", "compile_", type=click.Choice(COMPILE_CHOICES), default="auto")
@click.option("--most", type=click.IntRange(1, 8), default=4, show_default=True,
              help="Adversaries at most.")  # fmt: skip
@click.option("--attack", "attacks", type=click.Choice(ATTACKS), multiple=True, default=ATTACKS)
def main(
    dataset: str,
    dataset_root: Path,
    model: str,
    epochs: int,
    compile_: str,
    most: int,
    attacks: tuple[str, ...],
) -> None:
    """Prints test accuracies in percent, a row for each attack and optimizer."""
    logging.getLogger("compsgd").setLevel(logging.ERROR)
    options = ["--dataset", dataset, "--dataset_root", str(dataset_root), "--model", model]
    options += ["--epochs", str(epochs), "--compile", compile_]
    head = ["attack", "update", *map(str, range(most + 1))]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        honest = {
            name: accuracy([*options, *own], Path(folder)) for name, own in OPTIMIZERS.items()
        }
        for attack in attacks:
            for name, own in OPTIMIZERS.items():
                under_attack = [
                    accuracy(
                        [*options, *own, "--adversaries", str(count), "--attack", attack],
                        Path(folder),
                    )
                    for count in range(1, most + 1)
                ]
                rows.append([attack, name, *(f"{a:.2f}" for a in (honest[name], *under_attack))])
    click.echo("test accuracy in %, by the number of adversaries among 8 workers\n")
    click.echo(markdown_table(head, rows))


def accuracy(options: list[str], folder: Path) -> float:
    """One run, in this process: kernels are compiled once for all."""
    options = [*SETTINGS, *options, "--log_dir", str(folder), "--exp_name", "x", "--overwrite"]
    with contextlib.redirect_stdout(io.StringIO()):
        train.main(options, prog_name="compsgd train", standalone_mode=False)
    (cell,) = json.loads((folder / "x" / "result.json").read_text())["cells"]
    return float(cell["test_acc"])


if __name__ == "__main__":
    main()

"""The pictures of README and docs: the first run beside float32, and the time of the codec.

python scripts/readme_pictures.py                     all of them, anew
python scripts/readme_pictures.py --picture codec     what depends on the machine
"""

import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from compsgd.history import read_histories
from compsgd.plots import Run, curves_figure, save_figure
from compsgd.plots.style import show_plain_numbers
from compsgd.workers.commands.bench_command import bench
from compsgd.workers.commands.path_option import PathOption, make_folder
from compsgd.workers.commands.spreading import SpreadingCommand

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("first_run", "codec")


@click.command(cls=SpreadingCommand)
@click.option("--out", type=PathOption(file_okay=False),
              default=ROOT / "docs" / "pictures", help="Folder of the pictures.")  # fmt: skip
@click.option("--picture", "names", type=click.Choice(NAMES), multiple=True, default=NAMES)
@click.option("--epochs", type=click.IntRange(min=1), default=40, help="Of the first run.")
@click.option("--size", "sizes", type=click.IntRange(min=1), multiple=True,
              default=[10**5, 10**6, 10**7], help="Elements that the codec gets.")  # fmt: skip
@click.option("--compile", "compile_", type=click.Choice(("on", "off")), default="on",
              help="Of the codec.")  # fmt: skip
def main(
    out: Path, names: tuple[str, ...], epochs: int, sizes: tuple[int, ...], compile_: str
) -> None:
    """Writes the pictures; the defaults are those of the README."""
    make_folder("--out", out)
    draw: dict[str, Callable[[Path], None]] = {
        "first_run": lambda path: draw_first_run(path, epochs),
        "codec": lambda path: draw_codec(path, sizes, compile_),
    }
    for name in names:
        path = out / f"{name}.png"
        draw[name](path)
        click.echo(path)


_FIRST_RUNS = {
    "float32 (AdamW)": ["--optimizer", "adamw"],
    "3-bit vote": [],
    "1-bit vote": ["--num_bits", "1"],
}


def draw_first_run(path: Path, epochs: int) -> None:
    """Test accuracy against bytes sent: of the README's first run, and of what it is compared
    with."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            _trained(label, settings, epochs, Path(folder), f"run_{number}")
            for number, (label, settings) in enumerate(_FIRST_RUNS.items())
        ]
    figure = curves_figure(runs, "test_acc_hist", x="bytes")
    (axis,) = figure.axes
    axis.set_xscale("log")
    show_plain_numbers(axis.xaxis)
    save_figure(figure, path)


def _trained(label: str, settings: list[str], epochs: int, logs: Path, name: str) -> Run:
    """All workers in one process, with the bits of four: three starts of torch, and not fifteen."""
    where = ["--epochs", str(epochs), "--log_dir", str(logs), "--exp_name", name]
    finished = subprocess.run(
        [sys.executable, "-m", "compsgd", "train", "--num_workers", "4", *settings, *where],
        check=False,
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise click.ClickException(f"compsgd train failed:\n{finished.stdout}{finished.stderr}")
    (history,) = read_histories(logs / name / "histories.pkl").values()
    return Run(label, history)


def draw_codec(path: Path, sizes: tuple[int, ...], compile_: str) -> None:
    """The codec with 3 bits, as `compsgd bench codec` measures it."""
    settings = ["--num_bits", "3", "--compile", compile_, "--sizes", *map(str, sizes)]
    with contextlib.redirect_stdout(io.StringIO()):
        bench.main(["codec", *settings, "--picture", str(path)], standalone_mode=False)


if __name__ == "__main__":
    main()

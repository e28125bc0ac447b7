"""Every measurement of the documentation, one after the other.

sudo python scripts/measure_all.py --data data               what has not been measured yet
sudo python scripts/measure_all.py --only codec --again      one of them anew
python scripts/measure_all.py --list                         what there is, and how long it takes

Each table in docs/measurements/README.md and docs/robustness.md lies between two marks, and what
stands between them is written here: the command, when and where it ran, and what it printed. The
other tables are written by their own scripts, which are called here and go on where they were.
Outputs are kept in measured/, so that the same command goes on after an interruption. Give it the
machine for itself: a measurement that runs beside anything else measures that, too.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from compsgd.files import atomic_write
from compsgd.workers.bench.provenance import here_today
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.path_option import PathOption, make_folder
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.report.tables import format_table

ROOT = Path(__file__).resolve().parents[1]
PAGE, ROBUSTNESS = "docs/measurements/README.md", "docs/robustness.md"


@dataclass(frozen=True)
class Measurement:
    """A command, and where what it prints goes.

    Attributes:
        command: as a reader would type it in a clone.
        minutes: about what it takes on two cores.
        page: which holds its block; None if the command writes a page of its own.
        data_option: which names the folder of the data sets, if it needs them.
        needs_root: for network namespaces.
    """

    name: str
    command: str
    minutes: int
    page: str | None = None
    data_option: str | None = None
    needs_root: bool = False

    @property
    def shown(self) -> str:
        return f"sudo {self.command}" if self.needs_root else self.command

    def words(self, data: Path) -> list[str]:
        """What is run.

        Args:
            data: the folder of the data sets.
        """
        program, *rest = shlex.split(self.command)
        first = {"python": [sys.executable], "compsgd": [sys.executable, "-m", "compsgd"]}[program]
        named = [self.data_option, str(data)] if self.data_option else []
        return [*first, *rest, *named]


MEASUREMENTS = [
    Measurement("loopback", "python scripts/bench/step.py", 3, PAGE),
    Measurement("gigabit", "python scripts/bench/step.py --link 1gbit", 3, PAGE, needs_root=True),
    Measurement("codec", "compsgd bench codec --sizes 10000000 --num_bits 3 --binning lin exp "
                "--compile on off", 3, PAGE),
    Measurement("codec_memory", "compsgd bench codec --sizes 10000000 --num_bits 3 --binning lin "
                "--zeros broken --memory range momentum feedback both --voters 4", 1, PAGE),
    Measurement("rounds", "compsgd bench step --compile on off", 4, PAGE),
    Measurement("peers", "python scripts/bench/peers.py", 2, PAGE),
    Measurement("bytes", "python scripts/bench/bytes.py --dataset MNIST", 4, PAGE,
                "--dataset_root"),
    Measurement("hook", "python scripts/bench/hook_accuracy.py --dataset MNIST FashionMNIST "
                "--batch_size 64", 60, PAGE, "--dataset_root"),
    Measurement("fuzz_unpack", "python scripts/robustness/fuzz_unpack.py", 2, ROBUSTNESS),
    Measurement("memory", "python scripts/robustness/memory.py", 5, ROBUSTNESS),
    Measurement("adversaries", "python scripts/robustness/adversaries.py --compile on", 15,
                ROBUSTNESS, "--dataset_root"),
    Measurement("hostile_peers", "python scripts/robustness/hostile_peers.py", 30, ROBUSTNESS),
    Measurement("writes", "python scripts/robustness/writes.py", 25, ROBUSTNESS),
    Measurement("fuzz_files", "python scripts/robustness/fuzz_files.py", 5, ROBUSTNESS),
    Measurement("link_faults", "python scripts/robustness/link_faults.py", 20, ROBUSTNESS,
                needs_root=True),
    Measurement("intruders", "python scripts/robustness/intruders.py", 15, ROBUSTNESS,
                needs_root=True),
    Measurement("soak", "python scripts/robustness/soak.py --runs 200 --seed 2", 90, ROBUSTNESS),
    Measurement("pictures", "python scripts/readme_pictures.py", 5),
    Measurement("timeline", "python scripts/bench/timeline.py", 2, PAGE, needs_root=True),
    Measurement("network", "python scripts/bench/network.py", 240, needs_root=True),
    Measurement("predictions", "python scripts/bench/predictions.py", 5, needs_root=True),
    Measurement("entropy", "python scripts/study/entropy.py", 20, data_option="--data"),
    Measurement("time_to_target", "python scripts/study/time_to_target.py", 60,
                data_option="--data", needs_root=True),
    Measurement("reproduction", "python scripts/reproduce/run_all.py --jobs 2 "
                "--page docs/measurements/reproduced.md", 90,
                data_option="--dataset_root"),
    Measurement("study", "python scripts/study/run.py", 1500, data_option="--data"),
]  # fmt: skip
_NAMES = [one.name for one in MEASUREMENTS]


@dataclass(frozen=True)
class Record:
    """What a command has printed, and where.

    Attributes:
        day: as in 2026-11-27.
        where: processor, cores, and versions.
    """

    shown: str
    day: str
    where: str
    output: str

    def text(self) -> str:
        """As it stands on the page."""
        is_markdown = any(line.startswith("| ") for line in self.output.splitlines())
        table = self.output if is_markdown else f"```\n{self.output}\n```"
        return f"`{self.shown}`\n\n{table}\n\n*{self.day}, {self.where}*"


def measure(one: Measurement, data: Path) -> Record:
    """Runs it; what it says beside its results stays on the terminal.

    Raises:
        RunError: it fails.
    """
    ran = subprocess.run(one.words(data), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        said = f":\n{ran.stdout.strip()}" if ran.stdout.strip() else ""
        raise RunError(f"{one.shown} has failed with exit code {ran.returncode}{said}")
    output = "\n".join(line.rstrip() for line in ran.stdout.strip().splitlines())
    day, where = here_today()
    return Record(one.shown, day, f"{where}, version {_version()}", output)


def _version() -> str:
    """The commit, with a + if anything but the documentation has been changed since."""

    def git(*words: str) -> str:
        ran = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return ran.stdout.strip()

    is_changed = git("status", "--porcelain", "--", ".", ":!docs", ":!README.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if is_changed else "")


def block(name: str) -> re.Pattern[str]:
    """What lies between the marks of a measurement, which are comments of the page."""
    return re.compile(rf"(?s)(<!-- measured: {name} -->\n).*?(<!-- end of {name} -->)")


def write_block(page: Path, name: str, text: str) -> None:
    """
    Raises:
        RunError: the page does not have just one place for it.
    """
    old = page.read_text()
    new, count = block(name).subn(lambda found: f"{found[1]}\n{text}\n{found[2]}", old)
    if count != 1:
        raise RunError(f"{page} has {count} places for {name}, instead of one")
    if new != old:
        with atomic_write(page) as file:
            file.write(new.encode())


@click.command(cls=SpreadingCommand)
@click.option("--data", type=PathOption(file_okay=False), default=Path("data"), show_default=True,
              help="Folder of MNIST, FashionMNIST and text.")  # fmt: skip
@click.option("--only", type=click.Choice(_NAMES), multiple=True, default=_NAMES,
              show_default="all")  # fmt: skip
@click.option("--again", is_flag=True, help="Also what has been measured.")
@click.option("--list", "is_list", is_flag=True, help="Only print what there is.")
@click.option("--kept", type=PathOption(file_okay=False), default=ROOT / "measured",
              show_default="measured", help="Where outputs are kept.")  # fmt: skip
def measure_all(data: Path, only: Sequence[str], again: bool, is_list: bool, kept: Path) -> None:
    """Measures what is missing, and writes the tables."""
    asked = [one for one in MEASUREMENTS if one.name in only]
    if is_list:
        rows = [[one.name, str(one.minutes), one.shown] for one in asked]
        click.echo(format_table(["measurement", "minutes", "command"], rows))
        return
    bring(asked, data, kept, again=again)


def bring(asked: Sequence[Measurement], data: Path, kept: Path, *, again: bool) -> None:
    """Measures what is not kept yet, and writes its tables.

    Raises:
        UsageError: one of them could not be run here.
        RunError: one fails, or has no place on its page.
    """
    _require(asked, data)
    make_folder("--kept", kept)
    for number, one in enumerate(asked, 1):
        path = kept / f"{one.name}.json"
        if again or not path.exists():
            click.echo(f"{number}/{len(asked)} {one.shown}", err=True)
            with atomic_write(path) as file:
                file.write(json.dumps(asdict(measure(one, data.resolve())), indent=2).encode())
        if one.page:
            write_block(ROOT / one.page, one.name, _kept(path).text())


def _require(asked: Sequence[Measurement], data: Path) -> None:
    """
    Raises:
        UsageError: one of them could not be run here.
    """
    if os.geteuid() and any(one.needs_root for one in asked):
        names = ", ".join(one.name for one in asked if one.needs_root)
        raise UsageError(f"{names}: only root may make network namespaces; use sudo, or --only")
    if not data.is_dir() and any(one.data_option for one in asked):
        names = ", ".join(one.name for one in asked if one.data_option)
        raise UsageError(f"{names}: there is no folder {data}; name that of MNIST by --data")


def _kept(path: Path) -> Record:
    """
    Raises:
        UsageError: that is no output of this script.
    """
    try:
        return Record(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is no output of measure_all.py; delete it: {error}") from error


if __name__ == "__main__":
    execute(measure_all, "measure_all.py")

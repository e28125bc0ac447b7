"""The study: does compressed training lose anything against float32?

python scripts/study/run.py --data data --jobs 2

Runs what is missing, the most needed first, and writes results.csv, curves.csv, results.md and
figures into docs/measurements/study. What is there is not run again; interrupted, the same command
goes on.
"""

import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import click
from plan import PLAN, STAGES, Part, planned, ready
from records import Records
from result_figures import draw_all
from result_tables import write_tables
from runner import Runner
from tasks import TASKS

from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.path_option import PathOption, make_folder
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.failures import RunError, terminated_like_interrupted

_OUT = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "study"
ALL = "all"


def command(plan: Sequence[Part]) -> click.Command:
    """The study of a plan."""

    @click.command(cls=SpreadingCommand)
    @click.option(
        "--data",
        type=PathOption(),
        default=Path("data"),
        show_default=True,
        help="Folder of MNIST, FashionMNIST and text.",
    )
    @click.option(
        "--jobs",
        type=click.IntRange(min=0),
        default=1,
        show_default=True,
        help="Runs at a time; 0 only makes tables and figures of what is finished.",
    )
    @click.option(
        "--tasks",
        type=click.Choice(tuple(TASKS)),
        multiple=True,
        default=tuple(TASKS),
        show_default="all",
    )
    @click.option(
        "--only", default="*", show_default=True, metavar="PATTERN", help="Methods, as in 'vote3*'."
    )
    @click.option(
        "--stage",
        type=click.Choice((*STAGES, ALL)),
        default=ALL,
        show_default=True,
        help="tune: the grids of learning rates; report: the seeds of what is tuned.",
    )
    @click.option(
        "--log_dir",
        type=PathOption(file_okay=False),
        default=Path("study"),
        show_default=True,
        help="Folder of the runs.",
    )
    @click.option(
        "--out",
        type=PathOption(file_okay=False),
        default=_OUT,
        show_default="docs/measurements/study",
        help="Folder of tables and figures.",
    )
    def study(data: Path, jobs: int, tasks: Sequence[str], only: str, stage: str, log_dir: Path,
              out: Path) -> None:  # fmt: skip
        """Runs what is missing of the study, and writes its tables and figures."""
        make_folder("--out", out)
        if jobs:
            make_folder("--log_dir", log_dir)
        records = Records(out, log_dir)
        chosen = [
            (task, method)
            for task, method in planned(plan)
            if task.name in tasks and fnmatch(method.name, only)
        ]
        runner = Runner(records, data, jobs)
        stages = STAGES if stage == ALL else (stage,)
        with terminated_like_interrupted():
            for trial in runner.run(lambda: ready(chosen, stages, records.metric)):
                row = records.row(trial)
                shown = "no result" if row is None else f"{row.metric:g} ({row.seconds:.0f} s)"
                click.echo(f"{trial.task.name} {trial.method.name} {trial.name}: {shown}")
                _write(plan, records, out)
        _write(plan, records, out)
        for path in draw_all(plan, records, out / "figures"):
            click.echo(f"figure: {path}")
        _report_failures(runner)

    return study


def _write(plan: Sequence[Part], records: Records, out: Path) -> None:
    """The tables; first their rows, as what is asked for is taken over from the runs."""
    write_tables(plan, records, out)
    records.write()


def _report_failures(runner: Runner) -> None:
    if runner.failed:
        logs = "\n".join(str(runner.log(trial)) for trial in runner.failed)
        raise RunError(f"{len(runner.failed)} runs failed; the same command tries again:\n{logs}")


if __name__ == "__main__":
    execute(command(PLAN), Path(sys.argv[0]).name)

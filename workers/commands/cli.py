"""`compsgd train`, and launch.py with the same options."""

from typing import Any

import click

from compsgd.comm.group.rank_info import RankInfo
from compsgd.workers.commands.config_file import drop_overruled
from compsgd.workers.commands.execution import report_failures
from compsgd.workers.commands.run_options import read_options, with_options
from compsgd.workers.commands.spreading import SpreadingCommand, normalise
from compsgd.workers.launch.spawning import start_processes
from compsgd.workers.options import Options
from compsgd.workers.report.standard_output import guarded_output
from compsgd.workers.report.tables import format_table, option_text
from compsgd.workers.train.forecast import forecast
from compsgd.workers.train.run import run

_SETTINGS = {"token_normalize_func": normalise, "max_content_width": 100}


@with_options
@click.command(cls=SpreadingCommand, context_settings=_SETTINGS)
def train(**values: Any) -> None:
    """Train a model with N workers that exchange packed votes, all in this one process."""
    alone = RankInfo()
    is_dry, options = _read(values, alone)
    if is_dry:
        _forecast(options, alone)
    else:
        _train(options, alone)


@with_options
@click.command(cls=SpreadingCommand, context_settings=_SETTINGS)
def launch(**values: Any) -> None:
    """Train a model with N worker processes that exchange packed votes.

    \b
    torchrun --nproc_per_node 4 launch.py OPTIONS    torchrun's processes share the workers
    python launch.py --num_workers 4 OPTIONS         starts a process for each worker
    """
    rank_info = RankInfo.from_environment()
    is_dry, options = _read(values, rank_info)
    started = rank_info
    if not rank_info.launched:
        started = RankInfo(0, options.num_workers, 0, options.num_workers, launched=True)
    if is_dry:
        _forecast(options, started)
    elif rank_info.launched:
        _train(options, rank_info)
    else:
        options.check(started)
        _start(options)


def _read(values: dict[str, Any], rank_info: RankInfo) -> tuple[bool, Options]:
    """Whether the run is only to be described, and its options."""
    drop_overruled(click.get_current_context(), values, "epochs", "steps")
    return values["dry_run"], read_options(values, rank_info)


def _start(options: Options) -> None:
    start_processes(options.num_workers, _run_in_process, options)


def _run_in_process(options: Options) -> None:
    rank_info = RankInfo.from_environment()
    report_failures(lambda: _train(options, rank_info))


def _forecast(options: Options, rank_info: RankInfo) -> None:
    options.check(rank_info)
    if rank_info.rank == 0:
        found = forecast(options)
        rows = [(f"--{name}", option_text(value)) for name, value in options.as_dict().items()]
        click.echo(format_table(("of a run", ""), found))
        click.echo()
        click.echo(format_table(("option", "value"), rows))


def _train(options: Options, rank_info: RankInfo) -> None:
    """A run, whose results are files: what it prints is only wanted."""
    with guarded_output(goes_on=True):
        run(options, rank_info)

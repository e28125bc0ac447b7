"""`compsgd train`, and launch.py with the same options."""

from typing import Any

import click

from compsgd.comm.group.rank_info import RankInfo
from compsgd.workers.commands.execution import report_failures
from compsgd.workers.commands.run_options import read_options, with_options
from compsgd.workers.commands.spreading import SpreadingCommand, normalise
from compsgd.workers.launch.spawning import start_processes
from compsgd.workers.options import Options
from compsgd.workers.report.standard_output import guarded_output
from compsgd.workers.train.run import run

_SETTINGS = {"token_normalize_func": normalise, "max_content_width": 100}


@with_options
@click.command(cls=SpreadingCommand, context_settings=_SETTINGS)
def train(**values: Any) -> None:
    """Train a model with N workers that exchange packed votes, all in this one process."""
    _train(read_options(values, RankInfo()), RankInfo())


@with_options
@click.command(cls=SpreadingCommand, context_settings=_SETTINGS)
def launch(**values: Any) -> None:
    """Train a model with N worker processes that exchange packed votes.

    \b
    torchrun --nproc_per_node 4 launch.py OPTIONS    torchrun's processes share the workers
    python launch.py --num_workers 4 OPTIONS         starts a process for each worker
    """
    rank_info = RankInfo.from_environment()
    options = read_options(values, rank_info)
    if rank_info.launched:
        _train(options, rank_info)
        return
    options.check(RankInfo(0, options.num_workers, 0, options.num_workers, launched=True))
    start_processes(options.num_workers, _run_in_process, options)


def _run_in_process(options: Options) -> None:
    rank_info = RankInfo.from_environment()
    report_failures(lambda: _train(options, rank_info))


def _train(options: Options, rank_info: RankInfo) -> None:
    """A run, whose results are files: what it prints is only wanted."""
    with guarded_output(goes_on=True):
        run(options, rank_info)

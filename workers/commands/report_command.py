"""`compsgd report`: an experiment as one file of HTML."""

from pathlib import Path

import click

from compsgd.errors import CompsgdError
from compsgd.files import atomic_write
from compsgd.workers.commands.path_option import OutputFile, PathOption
from compsgd.workers.commands.spreading import normalise
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.results.finished import read_finished
from compsgd.workers.results.page import report_page


@click.command("report", context_settings={"token_normalize_func": normalise})
@click.argument("experiment", type=PathOption())
@click.option("--log_dir", type=PathOption(), default=Path("logs"), show_default=True,
              help="Where experiments are looked for by name.")  # fmt: skip
@click.option("--out", type=OutputFile(), required=True,
              help="The page, as in report.html; one that is there is replaced.")  # fmt: skip
def report(experiment: Path, log_dir: Path, out: Path) -> None:
    """One self-contained HTML page of EXPERIMENT, a folder or a name in --log_dir: results, bytes,
    figures, options and versions. It opens without a network."""
    folder = experiment if experiment.is_dir() else log_dir / experiment
    if not folder.is_dir():
        raise UsageError(f"{experiment} is neither a folder nor an experiment in {log_dir}")
    try:
        page = report_page(read_finished(folder))
    except CompsgdError as error:
        raise RunError(str(error)) from error
    try:
        with atomic_write(out) as file:
            file.write(page.encode())
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
    click.echo(out)

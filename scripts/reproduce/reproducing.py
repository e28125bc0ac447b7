"""The command that all of these scripts are: run what is missing, compare, draw."""

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import click
from cells import GRIDS, SHORT, Family, Training
from figures import family_figure
from running import Laboratory, missing, train
from tables import as_markdown, as_text

from compsgd.files import atomic_write
from compsgd.plots import save_figure
from compsgd.workers.bench.provenance import footer
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.path_option import OutputFile, PathOption, make_folder
from compsgd.workers.data.datasets import IMAGE_FORMATS
from compsgd.workers.failures import RunError, terminated_like_interrupted
from compsgd.workers.report.progress import on_a_terminal

_OPTIONS = [
    click.option("--dataset", type=click.Choice(tuple(IMAGE_FORMATS)), default="MNIST",
                 show_default=True),
    click.option("--dataset_root", type=PathOption(), default=Path("data"),
                 show_default=True),
    click.option("--download", type=bool, default=False, is_flag=False, flag_value="true",
                 show_default=True, help="Download what is missing."),
    click.option("--out", type=PathOption(file_okay=False),
                 default=Path("reproduced"), show_default=True,
                 help="Folder of runs, tables and figures. What is finished there is not run "
                 "again, and what was interrupted goes on."),
    click.option("--grid", type=click.Choice(GRIDS), default=SHORT, show_default=True,
                 help="first: one cell of each family. short: its best and its worst published "
                 "cell, and those that its claim needs, with one seed. full: all."),
    click.option("--jobs", type=click.IntRange(min=0), default=1, show_default=True,
                 help="Runs at a time, a thread each; 0 compares and draws what is finished."),
    click.option("--epochs", type=click.IntRange(min=1), default=None, show_default="as published",
                 help="Of every run, for a quick try."),
]  # fmt: skip


_PAGE_OPTION = click.option(
    "--page", type=OutputFile(), default=None,
    help="Write all tables to this page, too, as docs/measurements/reproduced.md.",
)  # fmt: skip
_PAGE_HEAD = """# The published experiments again

Made by `python scripts/reproduce/run_all.py` on {dataset}, the {grid} grid{epochs}.
Why some differ: [against the published results](../published_results.md).
"""


def main(families: Sequence[Family], has_page: bool = False) -> NoReturn:
    """Of a script; see command."""
    execute(command(families, has_page), Path(sys.argv[0]).name)


def command(families: Sequence[Family], has_page: bool = False) -> click.Command:
    """What a script does.

    Args:
        families: what it reproduces.
        has_page: whether all of their tables may go to one page, too.
    """

    def reproduce(out: Path, grid: str, jobs: int, page: Path | None = None, **where: Any) -> None:
        """Runs what is missing; prints ours beside the published figures, and draws."""
        laboratory = Laboratory(out=out, **where)
        make_folder("--out", out)
        try:
            if jobs:
                with terminated_like_interrupted():
                    _run(in_turns(families, grid, laboratory), laboratory, jobs)
            _report(families, grid, laboratory)
            if page:
                _write_page(page, families, grid, laboratory)
        except OSError as error:
            raise RunError(f"{error.filename}: {error.strerror}") from error

    for option in reversed([*_OPTIONS, _PAGE_OPTION] if has_page else _OPTIONS):
        reproduce = option(reproduce)
    return click.command()(reproduce)


def in_turns(families: Sequence[Family], grid: str, laboratory: Laboratory) -> list[Training]:
    """The first training of every family, then the second of every family, and so on."""
    columns = [
        [laboratory.adapted(one) for cell in family.chosen(grid) for one in cell.trainings(grid)]
        for family in families
    ]
    return [one for row in zip_longest(*columns) for one in row if one is not None]


def _run(trainings: Sequence[Training], laboratory: Laboratory, jobs: int) -> None:
    everything = list(dict.fromkeys(trainings))
    todo = missing(everything, laboratory)
    show = _show_bar if on_a_terminal() else _show_lines
    show(train(todo, laboratory, jobs), everything, todo)


def _show_bar(
    finished: Iterator[Training], everything: Sequence[Training], todo: Sequence[Training]
) -> None:
    """Of epochs, which take about as long with any number of workers."""
    num_epochs = sum(training.epochs for training in everything)
    num_done = len(everything) - len(todo)
    bar: Any = click.progressbar(
        length=num_epochs, label="epochs", item_show_func=lambda item: item, width=20
    )
    with bar:
        bar.update(num_epochs - sum(training.epochs for training in todo))
        for training in finished:
            num_done += 1
            bar.update(training.epochs, f"{num_done}/{len(everything)} runs, last {training.name}")


def _show_lines(
    finished: Iterator[Training], everything: Sequence[Training], todo: Sequence[Training]
) -> None:
    for num_done, training in enumerate(finished, len(everything) - len(todo) + 1):
        click.echo(f"{num_done}/{len(everything)} {training.name}")


def _report(families: Sequence[Family], grid: str, laboratory: Laboratory) -> None:
    """Prints all tables, and writes each with its figure."""
    for family in families:
        click.echo(as_text(family, grid, laboratory))
        _write(laboratory.out / f"{family.name}.md", as_markdown(family, grid, laboratory))
        figure = family_figure(family, grid, laboratory)
        if figure is not None:
            click.echo(f"figure: {save_figure(figure, laboratory.out / f'{family.name}.png')}\n")


def _write_page(path: Path, families: Sequence[Family], grid: str, laboratory: Laboratory) -> None:
    """All tables on one page, with when and where their runs were made."""
    epochs = "" if laboratory.epochs is None else f", all with {laboratory.epochs} epochs"
    finished = [one for one in in_turns(families, grid, laboratory) if laboratory.is_finished(one)]
    parts = [
        _PAGE_HEAD.format(dataset=laboratory.dataset, grid=grid, epochs=epochs),
        *(as_markdown(family, grid, laboratory) for family in families),
        f"{footer(map(laboratory.provenance, finished))}\n",
    ]
    _write(path, "\n".join(parts))


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())

"""`compsgd plot`: figures from any number of histories files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from compsgd.errors import CompsgdError
from compsgd.history import Histories, read_histories
from compsgd.workers.commands.path_option import PICTURE, PathOption
from compsgd.workers.commands.spreading import IntegerRange, SpreadingCommand, normalise
from compsgd.workers.failures import UsageError
from compsgd.workers.report.tables import format_table

Key = tuple[float, float]
_FILE_NAME = "histories.pkl"
_X_AXES = ("steps", "epochs", "seconds", "bytes", "evaluations")
_SETTINGS = {"token_normalize_func": normalise, "max_content_width": 100}


class KeyType(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks only
    """A cell of a sweep, as LR,DECAY."""

    name = "lr,decay"

    def convert(self, value: Any, param: Any, ctx: Any) -> Key:
        if isinstance(value, tuple):
            return value
        try:
            lr, decay = map(float, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not LR,DECAY, as in 0.0001,0.7", param, ctx)
        return lr, decay


def find_files(names: Sequence[str], log_dir: Path) -> list[Path]:
    """Histories files by path, by folder, by the name of an experiment, or by a pattern of any.

    Raises:
        UsageError: a name that fits nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        there = _histories_among(name, _matching(name))
        there = there or _histories_among(name, sorted(log_dir.glob(name)))
        if not there:
            raise UsageError(f"{name} is neither a histories file nor an experiment in {log_dir}")
        found |= dict.fromkeys(there)
    return list(found)


def _histories_among(name: str, matches: Sequence[Path]) -> list[Path]:
    """Of files that a pattern fits, those that end as histories do; a file by its name as it is."""
    files = [path / _FILE_NAME if path.is_dir() else path for path in matches]
    return [
        path
        for path in files
        if path.is_file() and (path == Path(name) or path.suffix == Path(_FILE_NAME).suffix)
    ]


def _matching(pattern: str) -> list[Path]:
    path = Path(pattern)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def read_all(files: Sequence[Path]) -> dict[str, Histories]:
    """By what a reader calls them: the folder, where the file has the usual name."""
    names = [_experiment_name(path) for path in files]
    distinct = len(set(names)) == len(names)
    labels = names if distinct else [str(path) for path in files]
    return {label: read_histories(path) for label, path in zip(labels, files, strict=True)}


def _experiment_name(path: Path) -> str:
    return path.absolute().parent.name if path.name == _FILE_NAME else path.stem


def choose(histories: dict[str, Histories], keys: Sequence[Key]) -> list[tuple[str, Key, Any]]:
    """The cells that are asked for, or all: of which file, which cell, its history.

    Raises:
        UsageError: a key that no file has.
    """
    for key in keys:
        if not any(key in cells for cells in histories.values()):
            there = sorted({cell for cells in histories.values() for cell in cells})
            raise UsageError(f"--key {_key(key)}: there are {', '.join(map(_key, there))}")
    return [
        (name, key, history)
        for name, cells in histories.items()
        for key, history in cells.items()
        if not keys or key in keys
    ]


def _key(key: Key) -> str:
    return f"{key[0]:g},{key[1]:g}"


def _labels(chosen: Sequence[tuple[str, Key, Any]], given: Sequence[str]) -> list[str]:
    """What the lines are called: as given, or by what tells them apart."""
    if given:
        return _as_many(given, len(chosen))
    names, keys = {name for name, _, _ in chosen}, {key for _, key, _ in chosen}
    labels = []
    for name, (lr, decay), _ in chosen:
        cell = f"lr {lr:g}, decay {decay:g}"
        parts = ([name] if len(names) > 1 or len(keys) == 1 else []) + (
            [cell] if len(keys) > 1 else []
        )
        labels.append(", ".join(parts))
    return labels


def _as_many(given: Sequence[str], count: int) -> list[str]:
    if len(given) != count:
        raise UsageError(f"{len(given)} --label for {count} lines; give one for each")
    return list(given)


def _runs(labels: Sequence[str], chosen: Sequence[tuple[str, Key, Any]]) -> list[Any]:
    from compsgd.plots import Run

    return [Run(label, history) for label, (_, _, history) in zip(labels, chosen, strict=True)]


def _draw(path: Path, figure_of: Callable[..., Any], *args: Any, **settings: Any) -> None:
    """Saves figure_of(*args, **settings).

    Raises:
        UsageError: the files do not hold what is asked for.
    """
    from compsgd.plots import save_figure

    try:
        click.echo(save_figure(figure_of(*args, **settings), path))
    except CompsgdError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a formula in $ that is none
        reason = str(error).strip().rpartition("\n")[2]
        raise UsageError(f"{path} cannot be drawn: {reason}") from error


def _draw_cells(
    figure_of: Callable[..., Any],
    *,
    files: Sequence[str],
    log_dir: Path,
    keys: Sequence[Key],
    labels: Sequence[str],
    out: Path,
    **settings: Any,
) -> None:
    """A figure of the cells that are asked for."""
    chosen = choose(read_all(find_files(files, log_dir)), keys)
    _draw(out, figure_of, _runs(_labels(chosen, labels), chosen), **settings)


_FILES = click.argument("files", nargs=-1, required=True)
_LOG_DIR = click.option(
    "--log_dir",
    type=PathOption(),
    default=Path("logs"),
    show_default=True,
    help="Where experiments are looked for by name.",
)
_KEY = click.option(
    "--key",
    "keys",
    type=KeyType(),
    multiple=True,
    help="Cells of a sweep, as in --key 0.0001,0.7; all of them without.",
)
_LABEL = click.option("--label", "labels", multiple=True, help="What lines are called, in order.")
_OUT = click.option("--out", type=PICTURE, required=True,
                    help="The figure: PNG, PDF or SVG by its ending.")  # fmt: skip
_TITLE = click.option("--title", default="", help="Above the figure.")
_LINE_OPTIONS = [
    click.option("--metric", required=True, help="What is drawn; compsgd plot list names them."),
    click.option("--x", type=click.Choice(_X_AXES), default=None,
                 show_default="steps, or what FILES tell",
                 help="What the metric is drawn over; bytes are those that a worker sent."),
    click.option("--x_label", default=None, help="In place of the usual."),
    click.option("--y_label", default=None, help="In place of the usual."),
    click.option("--steps_between", type=IntegerRange(min=1), default=None,
                 help="Between two values of batch metrics, where a file does not say."),
]  # fmt: skip


_Command = TypeVar("_Command", bound=Callable[..., Any])


def _with(*options: Any) -> Callable[[_Command], _Command]:
    """All of them, in the order of the help."""

    def declare(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return declare


@click.group("plot", context_settings={"token_normalize_func": normalise})
def plot() -> None:
    """Figures from the histories of experiments, ours or the original code's."""


@plot.command("curves", cls=SpreadingCommand, context_settings=_SETTINGS)
@_with(_FILES, _LOG_DIR, _KEY, _LABEL, _TITLE, _OUT, *_LINE_OPTIONS)
def curves(**asked: Any) -> None:
    """A line for each cell of each of FILES: paths, experiment names, or patterns of them."""
    from compsgd.plots import curves_figure

    _draw_cells(curves_figure, **asked)


@plot.command("average", cls=SpreadingCommand, context_settings=_SETTINGS)
@_with(_FILES, _LOG_DIR, _KEY, _LABEL, _TITLE, _OUT, *_LINE_OPTIONS)
def average(files: tuple[str, ...], log_dir: Path, keys: tuple[Key, ...], labels: tuple[str, ...],
            title: str, out: Path, metric: str, **settings: Any) -> None:  # fmt: skip
    """For each cell the mean over FILES, as of several seeds, and the band that they lie in."""
    from compsgd.plots import Run, average_figure

    by_key: dict[Key, list[Any]] = {}
    for name, key, history in choose(read_all(find_files(files, log_dir)), keys):
        by_key.setdefault(key, []).append(Run(name, history))
    names = (
        _as_many(labels, len(by_key))
        if labels
        else [f"lr {lr:g}, decay {decay:g}" for lr, decay in by_key]
    )
    groups = list(zip(names, by_key.values(), strict=True))
    _draw(out, average_figure, groups, metric, title=title, **settings)


@plot.command("usages", cls=SpreadingCommand, context_settings=_SETTINGS)
@_with(_FILES, _LOG_DIR, _KEY, _LABEL, _TITLE, _OUT)
def usages(**asked: Any) -> None:
    """Shares of the levels over the steps, stacked, an axis for each cell of each of FILES."""
    from compsgd.plots import usages_figure

    _draw_cells(usages_figure, **asked)


@plot.command("agreement", cls=SpreadingCommand, context_settings=_SETTINGS)
@_with(_FILES, _LOG_DIR, _KEY, _LABEL, _TITLE, _OUT)
def agreement(**asked: Any) -> None:
    """Shares of the elements by the size of the workers' majority, as --diagnose has recorded
    them, over the steps, stacked, an axis for each cell of each of FILES."""
    from compsgd.plots import agreement_figure

    _draw_cells(agreement_figure, **asked)


@plot.command("list", cls=SpreadingCommand, context_settings=_SETTINGS)
@_with(_FILES, _LOG_DIR)
def list_(files: tuple[str, ...], log_dir: Path) -> None:
    """What FILES hold: their cells, and for each metric how many values, and the last."""
    for name, cells in read_all(find_files(files, log_dir)).items():
        click.echo(f"{name}\n")
        rows = [
            [_key(key), metric, *_count_and_last(values)]
            for key, history in cells.items()
            for metric, values in history.items()
        ]
        click.echo(format_table(["key", "metric", "values", "last"], rows) + "\n")


def _count_and_last(values: Any) -> tuple[str, str]:
    if not np.ndim(values):
        return "1", f"{values:,.4g}"
    if not len(values):
        return "0", "-"
    is_line = np.ndim(values) == 1
    return f"{len(values):,}", f"{values[-1]:,.4g}" if is_line else f"{len(values[-1])} columns"

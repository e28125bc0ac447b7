"""`--config FILE`: options from a file; those of the command line win."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from compsgd.workers.commands.spreading import normalise
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.results.formats import CONFIG, read_checked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found]

# Where a run was, and how it began, is no part of its repetition.
_OF_ONE_RUN = {"exp_name", "log_dir", "overwrite", "resume"}


def take_options(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """The callback of `--config`: the file's options become defaults.

    Raises:
        UsageError: the file cannot be read, or has an option that there is not, or a value that it
            does not take; the line names the file and the option.
    """
    if path is None:
        return
    known = {one.name: one for one in ctx.command.params if isinstance(one, click.Option)}
    found = {}
    for written, value in _read(path).items():
        name = normalise(written)
        option = known.get(name)
        if option is None or not option.expose_value:
            raise UsageError(f"{path}: there is no option {written}")
        if option.multiple and not isinstance(value, (list, tuple)):
            value = [value]
        try:
            option.type_cast_value(ctx, value)
        except click.BadParameter as error:
            raise UsageError(f"{path}: {written}: {error.message}") from error
        found[name] = value
    ctx.default_map = found


def drop_overruled(ctx: click.Context, values: dict[str, Any], *alternatives: str) -> None:
    """Where the command line gives one of several options that exclude each other, those of a
    file do not count."""
    given = {name for name in alternatives if values[name] is not None}
    from_file = {name for name in given if _is_from_file(ctx, name)}
    if from_file != given:
        values.update(dict.fromkeys(from_file))


def _is_from_file(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) == click.core.ParameterSource.DEFAULT_MAP


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".json":
        return _options_of_a_run(path)
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    for name, value in content.items():
        if isinstance(value, Mapping):
            raise UsageError(f"{path}: [{name}] is a table; options stand at the top of the file")
    return content


def _options_of_a_run(path: Path) -> Mapping[str, Any]:
    """Of a config.json."""
    try:
        options: Mapping[str, Any] = read_checked(path, CONFIG)["options"]
    except FileNotFoundError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except RunError as error:
        raise UsageError(error.format_message()) from error
    return {
        name: value
        for name, value in options.items()
        if name not in _OF_ONE_RUN and value is not None
    }

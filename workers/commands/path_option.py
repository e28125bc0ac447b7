"""Paths as options, and what is written to them."""

import json
from pathlib import Path
from typing import Any

import click

from compsgd.files import atomic_write
from compsgd.workers.failures import UsageError

_PICTURES = (".png", ".pdf", ".svg")


class PathOption(click.Path):
    """A pathlib.Path, in which ~ is the home folder: in --log_dir=~/x no shell says so."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return super().convert(Path(value).expanduser(), param, ctx)
        except RuntimeError as error:
            self.fail(f"{value}: {error}", param, ctx)


def check_picture(option: str, path: Path | None) -> None:
    """Raises UsageError for a file, if there is one, that is no picture by its ending."""
    if path is not None and path.suffix not in _PICTURES:
        raise UsageError(f"{option} {path} must end in one of {', '.join(_PICTURES)}")


def make_folder(option: str, folder: Path) -> None:
    """Raises UsageError, which names the option, where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {folder}: {error.strerror}") from error


def write_json(path: Path, report: Any) -> None:
    """What --json asks for.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        with atomic_write(path) as file:
            file.write(json.dumps(report, indent=2).encode())
    except OSError as error:
        raise UsageError(f"--json {path}: {error.strerror}") from error

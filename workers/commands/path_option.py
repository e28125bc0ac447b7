"""Paths as options, and what is written to them."""

import json
import os
from pathlib import Path
from typing import Any

import click

from compsgd.files import atomic_write
from compsgd.workers.failures import UsageError


class PathOption(click.Path):
    """A pathlib.Path, in which ~ is the home folder: in --log_dir=~/x no shell says so."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return super().convert(Path(value).expanduser(), param, ctx)
        except RuntimeError as error:
            self.fail(f"{value}: {error}", param, ctx)


class OutputFile(PathOption):
    """A file that is going to be written; one that cannot be is refused before anything runs."""

    def __init__(self, *endings: str) -> None:
        """
        Args:
            endings: of which the name must have one; none for any name.
        """
        super().__init__(dir_okay=False, writable=True)
        self._endings = endings

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        path = super().convert(value, param, ctx)
        if self._endings and path.suffix.lower() not in self._endings:
            self.fail(f"{path} must end in one of {', '.join(self._endings)}", param, ctx)
        folder = path.absolute().parent
        if not folder.is_dir():
            self.fail(f"{path}: there is no folder {path.parent}", param, ctx)
        if not os.access(folder, os.W_OK):
            self.fail(f"{path}: {path.parent} cannot be written", param, ctx)
        return path


PICTURE = OutputFile(".png", ".pdf", ".svg")


def make_folder(option: str, folder: Path) -> None:
    """Raises UsageError, which names the option, where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {folder} cannot be written")


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

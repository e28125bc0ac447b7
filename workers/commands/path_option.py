"""Paths as options."""

from pathlib import Path
from typing import Any

import click


class PathOption(click.Path):
    """A pathlib.Path, in which ~ is the home folder: in --log_dir=~/x no shell says so."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return super().convert(Path(value).expanduser(), param, ctx)
        except RuntimeError as error:
            self.fail(f"{value}: {error}", param, ctx)

"""Rows of a measurement, as the lines of a CSV file that is written as it goes."""

import csv
import io
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from compsgd.files import atomic_write
from compsgd.workers.failures import UsageError

# A frozen dataclass, whose fields are of the types below.
Row = TypeVar("Row")
_BOOLS = {"True": True, "False": False}


def read_rows(path: Path, kind: type[Row], writer: str) -> list[Row]:
    """What has been measured; nothing if there is no file.

    Args:
        path: of the file.
        kind: of the rows.
        writer: the script that writes such files.

    Raises:
        UsageError: a file of something else.
    """
    if not path.exists():
        return []
    names = _names(kind)
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != names:
                raise ValueError(f"its columns are not {', '.join(names)}")
            return [_row(one, kind) for one in reader]
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is not what {writer} writes: {error}") from error


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """All rows, atomically: a reader finds the old ones or the new ones."""
    text = io.StringIO()
    table = csv.DictWriter(text, _names(kind), lineterminator="\n")
    table.writeheader()
    table.writerows(vars(row) for row in rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))


def _row(texts: dict[str, str], kind: type[Row]) -> Row:
    values = {
        one.name: _BOOLS[texts[one.name]] if one.type is bool else one.type(texts[one.name])
        for one in fields(kind)  # type: ignore[arg-type]
    }
    return kind(**values)

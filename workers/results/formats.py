"""What the JSON files of a run hold: config.json, result.json, and a checkpoint's manifest.

The one place that knows their fields; they are checked when they are written and when they are
read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compsgd.comm.traffic.ledger import Purpose
from compsgd.errors import CompsgdError
from compsgd.kinds import (
    ANYTHING,
    COUNT,
    SHA256,
    TEXT,
    Fields,
    Integer,
    Kind,
    ListOf,
    MappingOf,
    Number,
    Optional,
    Plain,
    Row,
)
from compsgd.strict_json import read_json
from compsgd.workers.failures import RunError

_TEXTS = MappingOf(TEXT, TEXT)
_AMOUNT = Number(0)
# A run that diverged has no number, and JSON then has null.
_MEASURED = Optional(Number())

CONFIG = Fields(
    {
        "options": MappingOf(TEXT, Plain()),
        "lasting": _TEXTS,
        "run": MappingOf(TEXT, Plain()),
        "versions": _TEXTS,
    }
)

# Scores stand under train_, test_ and last_epoch_, by the measure of the data set.
CELL = Fields(
    {
        "lr": Number(0),
        "decay": Number(0, 1),
        "train_loss": _MEASURED,
        "test_loss": _MEASURED,
        "num_parameters": COUNT,
        "num_steps": Integer(1),
        "bytes_per_worker_and_step": _AMOUNT,
        "compression_rate": Optional(_AMOUNT),
        "num_non_finite": COUNT,
        "seconds": Optional(_AMOUNT),
        "weights": TEXT,
        "weights_sha256": SHA256,
    },
    {"wire_bytes_sent": COUNT, "kernel_bytes_sent": COUNT, "kernel_to_ledger": _AMOUNT},
    others=_MEASURED,
)

_TRAFFIC = Fields({purpose.value: COUNT for purpose in Purpose})


def result_format(cells: Sequence[tuple[float, float]], scores: Sequence[str]) -> Kind:
    """Of result.json.

    Args:
        cells: those that it may begin with, in order.
        scores: the entries of a cell that a table shows.
    """
    return _ResultFormat(cells, scores)


class _ResultFormat:
    meaning = "the results of a run"

    def __init__(self, cells: Sequence[tuple[float, float]], scores: Sequence[str]) -> None:
        self._cells = cells
        self._scores = scores

    def check(self, place: str, value: object) -> None:
        Fields({"cells": ListOf(ANYTHING), "process_0_bytes_sent": _TRAFFIC}).check(place, value)
        assert isinstance(value, dict), "checked"
        check_cells(value["cells"], self._cells, self._scores)


def check_cells(value: object, cells: Sequence[tuple[float, float]], scores: Sequence[str]) -> None:
    """Raises MisfitError unless they are the first of these cells."""
    ListOf(CELL).check("cells", value)
    assert isinstance(value, (list, tuple)), "checked"
    Integer(0, len(cells)).check("the number of cells", len(value))
    for index, (found, (lr, decay)) in enumerate(zip(value, cells, strict=False)):
        Fields(dict.fromkeys(scores, _MEASURED), others=ANYTHING).check(f"cells[{index}]", found)
        Row([Number(lr, lr), Number(decay, decay)]).check(
            f"lr and decay of cells[{index}]", [found["lr"], found["decay"]]
        )


_PART = Fields({"size_bytes": COUNT, "sha256": SHA256})
# What a process has written of a checkpoint, by the name of the file.
WRITTEN = MappingOf(TEXT, _PART)


def manifest_format(num_cells: int, names: Sequence[str]) -> Kind:
    """Of what a checkpoint's manifest says, of a run of so many cells, and of parts of these
    names."""
    return Fields(
        {
            "format": Integer(),
            "serial": Integer(1, 10**9),
            "facts": Fields(
                {"options": _TEXTS, "surroundings": _TEXTS, "cell": Integer(0, num_cells - 1)}
            ),
            "parts": Fields(dict.fromkeys(names, _PART)),
        }
    )


SIGNED = Fields({"sha256": SHA256, "manifest": Fields({"format": Integer()}, others=ANYTHING)})


def read_checked(path: Path, kind: Kind) -> Any:
    """The content of one of these files.

    Raises:
        FileNotFoundError: there is none.
        RunError: it cannot be read, or holds something else; the line names file and field.
    """
    try:
        content = read_json(path)
        kind.check("", content)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except CompsgdError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise RunError(f"{path} is damaged, or none of ours: {reason}") from error
    return content

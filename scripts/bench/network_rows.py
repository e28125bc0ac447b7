"""What network.py measures, as the lines of network.csv."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from netlab import LabError, Link

from compsgd.files import atomic_write
from compsgd.workers.failures import UsageError

UNSHAPED = "unshaped"


class Cell(NamedTuple):
    """What is measured in one go."""

    model: str
    num_hosts: int
    rate: str


@dataclass(frozen=True)
class Row:
    """A line of network.csv: what rank 0 has measured.

    Attributes:
        kind: STEP or EXCHANGE.
        ms: the median of num_steps.
        sent_bytes: by a host in a step, as the kernel has counted them.
    """

    model: str
    num_hosts: int
    rate: str
    kind: str
    method: str
    ms: float
    num_steps: int
    sent_bytes: int

    @property
    def cell(self) -> Cell:
        return Cell(self.model, self.num_hosts, self.rate)

    @property
    def bits_per_s(self) -> float:
        return link_of(self.rate).bits_per_s


_FIELDS = tuple(Row.__annotations__)


def link_of(rate: str) -> Link:
    return Link(None if rate == UNSHAPED else rate)


def read_rows(path: Path) -> list[Row]:
    """What has been measured.

    Raises:
        UsageError: a file of something else.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != _FIELDS:
                raise ValueError(f"its columns are not {', '.join(_FIELDS)}")
            return [_row(one) for one in reader]
    except (ValueError, TypeError, LabError) as error:
        raise UsageError(f"{path} is not what network.py writes: {error}") from error


def _row(texts: dict[str, str]) -> Row:
    row = Row(
        texts["model"], int(texts["num_hosts"]), texts["rate"], texts["kind"], texts["method"],
        float(texts["ms"]), int(texts["num_steps"]), int(texts["sent_bytes"]),
    )  # fmt: skip
    link_of(row.rate)
    return row


def write_rows(rows: Sequence[Row], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())

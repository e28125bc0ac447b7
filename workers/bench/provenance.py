"""When and where figures were measured: without that nobody can judge a table."""

import os
from collections.abc import Iterable
from datetime import date
from typing import NamedTuple, Protocol

from compsgd.workers.bench.timing import machine


class Measured(Protocol):
    """What says so of itself, as a Provenance and a row of a table do."""

    @property
    def day(self) -> str: ...

    @property
    def where(self) -> str: ...


class Provenance(NamedTuple):
    """
    Attributes:
        day: as in 2026-11-28.
        where: processor, cores, memory, and torch's version.
    """

    day: str
    where: str


def here_today() -> Provenance:
    """Of what is measured now."""
    about = machine()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    num_cores = len(os.sched_getaffinity(0))
    where = (
        f"{about['cpu']}, {num_cores} core{'s' * (num_cores > 1)}, "
        f"{round(memory_bytes / 2**30)} GiB, torch {about['torch']}"
    )
    return Provenance(date.today().isoformat(), where)


def footer(measured: Iterable[Measured]) -> str:
    """What stands below a table: each machine, with its first and its last day; nothing of nothing.

    >>> footer([Provenance("2026-11-28", "a PC"), Provenance("2026-11-26", "a PC")])
    '*2026-11-26 to 2026-11-28, a PC*'
    """
    days: dict[str, list[str]] = {}
    for one in measured:
        days.setdefault(one.where, []).append(one.day)
    spans = {where: (min(found), max(found)) for where, found in days.items()}
    by_day = sorted(spans.items(), key=lambda item: item[1])
    lines = [f"{_span(*span)}, {where}" for where, span in by_day]
    return f"*{'; '.join(lines)}*" if lines else ""


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"

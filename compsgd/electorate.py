"""Who votes on what: a parameter without a gradient sits out, and so may a whole worker."""

from collections.abc import Sequence
from typing import NamedTuple

from compsgd.flat import Run


class Electorate(NamedTuple):
    """A run of elements and the workers that vote on it."""

    run: Run
    workers: tuple[int, ...]


def parts_within(electorates: Sequence[Electorate], run: Run) -> list[Electorate]:
    """The parts of electorates that lie in a run."""
    parts = [Electorate(one.run.within(run), one.workers) for one in electorates]
    return [part for part in parts if part.run.numel]

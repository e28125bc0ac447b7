"""When work is done that goes through one resource after another, chunk behind chunk."""

from collections import defaultdict
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple


class Stage(NamedTuple):
    """A part of a job, which has its resource to itself.

    Attributes:
        resource: by name.
        seconds: that it takes.
    """

    resource: str
    seconds: float


def finish_s(jobs: Sequence[Sequence[Stage]]) -> float:
    """When the last of several jobs is done. A job's stages come one behind the other, and each
    resource takes whatever can begin first; of those the job that is farthest, and of those the
    first job.

    Args:
        jobs: the stages of each.

    Examples:
        >>> from compsgd.workers.prediction.pipeline import Stage, finish_s
        >>> job = [Stage("core", 2.0), Stage("link", 3.0)]
        >>> finish_s([job, job])  # the second one is coded while the first one travels
        8.0
    """
    queues: dict[str, _Queue] = defaultdict(_Queue)
    for index, stages in enumerate(jobs):
        if stages:
            queues[stages[0].resource].add(0.0, 0, index)
    last_s = 0.0
    while any(queues.values()):
        queue = min(filter(None, queues.values()), key=_Queue.first)
        start_s, reached, index = queue.take()
        stages = jobs[index]
        end_s = start_s + stages[reached].seconds
        queue.is_free_at(end_s)
        last_s = max(last_s, end_s)
        if reached + 1 < len(stages):
            queues[stages[reached + 1].resource].add(end_s, reached + 1, index)
    return last_s


class _Queue:
    """The jobs that wait for a resource."""

    def __init__(self) -> None:
        self._free_s = 0.0
        # Those that could begin by then; and those that cannot, by when they can.
        self._able: list[tuple[int, int]] = []
        self._later: list[tuple[float, int, int]] = []

    def __bool__(self) -> bool:
        return bool(self._able or self._later)

    def add(self, ready_s: float, reached: int, index: int) -> None:
        """A job that can begin its stage of this number then."""
        if ready_s <= self._free_s:
            heappush(self._able, (-reached, index))
        else:
            heappush(self._later, (ready_s, -reached, index))

    def first(self) -> tuple[float, int, int]:
        """When the next one begins, less the number of its stage, and the job."""
        return (self._free_s, *self._able[0]) if self._able else self._later[0]

    def take(self) -> tuple[float, int, int]:
        """Takes the next one out: when it begins, the number of its stage, and the job."""
        start_s, less_reached, index = self.first()
        if self._able:
            heappop(self._able)
        else:
            heappop(self._later)
        return start_s, -less_reached, index

    def is_free_at(self, free_s: float) -> None:
        self._free_s = free_s
        while self._later and self._later[0][0] <= free_s:
            _, less_reached, index = heappop(self._later)
            heappush(self._able, (less_reached, index))

"""When work is done that goes through one resource after another, chunk behind chunk."""

from collections.abc import Sequence
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
    free: dict[str, float] = {}
    reached = [0] * len(jobs)
    ready = [0.0] * len(jobs)
    waiting = [index for index, stages in enumerate(jobs) if stages]
    while waiting:
        starts = {
            index: max(ready[index], free.get(jobs[index][reached[index]].resource, 0.0))
            for index in waiting
        }
        chosen = min(waiting, key=lambda index: (starts[index], -reached[index], index))
        stage = jobs[chosen][reached[chosen]]
        ready[chosen] = free[stage.resource] = starts[chosen] + stage.seconds
        reached[chosen] += 1
        waiting = [index for index in waiting if reached[index] < len(jobs[index])]
    return max(ready, default=0.0)

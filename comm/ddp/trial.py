"""Whether the vote pays on this machine and this link: in the first steps it takes turns with plain
averaging, and what takes less time stays."""

import logging
import statistics
import time
from collections.abc import Callable

from torch import Tensor

from compsgd.comm.group.agreement import slowest

log = logging.getLogger("compsgd")

# Whether the gradients of a step are voted on. The first one compiles, and DistributedDataParallel
# makes new buckets behind it.
_TURNS = (True, True, False, True, False, True, False)
_UNCOUNTED = 1


class Trial:
    """Counts and times the steps of one process until all have decided.

    Attributes:
        pays: whether gradients are voted on from now on; None as long as that is open.
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Args: clock: seconds."""
        self.clock = clock
        self.restart()

    def restart(self, pays: bool | None = None) -> None:
        """Goes on with what was decided; None begins anew."""
        self.pays = pays
        self._seconds: list[float] = []
        self._began: float | None = None

    @property
    def votes(self) -> bool:
        """Whether the gradients of this step are voted on; averaged otherwise."""
        return _TURNS[len(self._seconds)] if self.pays is None else self.pays

    def begin_step(self) -> None:
        """The first gradients are there; later ones do not matter."""
        if self._began is None:
            self._began = self.clock()

    def end_step(self, share: Callable[[Tensor], Tensor]) -> None:
        """All gradients have been combined.

        Args:
            share: brings a few bytes of every process to all, by rank.
        """
        if self.pays is not None or self._began is None:
            return
        self._seconds.append(self.clock() - self._began)
        self._began = None
        if len(self._seconds) == len(_TURNS):
            self._decide(share)

    def _decide(self, share: Callable[[Tensor], Tensor]) -> None:
        """By the slowest process, and so alike on all."""
        counted = list(zip(_TURNS, self._seconds, strict=True))[_UNCOUNTED:]
        medians = [
            statistics.median(seconds for votes, seconds in counted if votes is kind)
            for kind in (True, False)
        ]
        vote_s, average_s = slowest(share, medians)
        self.pays = vote_s <= average_s
        log.info(
            "gradients are %s from now on: from the first to the last of a step the vote takes "
            "%.1f ms, and averaging %.1f ms",
            "voted on" if self.pays else "averaged", vote_s * 1e3, average_s * 1e3,
        )  # fmt: skip

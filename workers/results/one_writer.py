"""One experiment, one writer: two runs of one name would mix their results."""

import logging
from pathlib import Path

from filelock import FileLock, Timeout

from compsgd.workers.failures import UsageError

log = logging.getLogger("compsgd")

LOCK = ".lock"


class OneWriter:
    """The right to write into a folder, for one run at a time on all machines that share it. The
    operating system takes it back from a process that has ended, however it has.

    Attributes:
        is_taken: whether this run has it; where the file system has no locks, whether it has asked.
    """

    def __init__(self, folder: Path) -> None:
        """Args: folder: it need not be there yet."""
        self._folder = folder
        self._lock = FileLock(folder / LOCK, thread_local=False)
        self.is_taken = False

    def take(self) -> None:
        """Returns at once; the folder must be there. Taken again, it is still taken.

        Raises:
            UsageError: another run has it.
        """
        if self.is_taken:
            return
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise UsageError(
                f"another run is writing to {self._folder} now; wait for its end, or choose "
                "another --exp_name"
            ) from error
        except (NotImplementedError, OSError) as error:
            log.warning(
                "%s cannot be locked (%s): see to it that no other run writes to it",
                self._folder, error,
            )  # fmt: skip
        self.is_taken = True

    def release(self) -> None:
        """Others may have it; nothing of it is left in the folder."""
        self.is_taken = False
        if self._lock.is_locked:
            (self._folder / LOCK).unlink(missing_ok=True)
            self._lock.release()

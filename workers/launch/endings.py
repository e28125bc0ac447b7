"""What the ends of started processes mean: which of them says best what went wrong."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from compsgd.workers.failures import InterruptedRunError, RunError, interrupted_exit_code


class ChildError(Exception):
    """A started process failed.

    Attributes:
        exit_code: its exit code.
        trace: its traceback, where it did not say itself what was wrong.
    """

    def __init__(self, exit_code: int, trace: str | None) -> None:
        super().__init__(trace or f"a worker process ended with exit code {exit_code}")
        self.exit_code = exit_code
        self.trace = trace


@dataclass(frozen=True)
class Ending:
    """How a process has ended.

    Attributes:
        rank: which one.
        exit_code: negative for the number of the signal that ended it.
        trace: the traceback of an exception that nobody has caught.
    """

    rank: int
    exit_code: int
    trace: str | None = None

    @property
    def is_failure(self) -> bool:
        return self.exit_code != 0

    @property
    def has_spoken(self) -> bool:
        """Whether it has said itself what was wrong, or left that to others that know it, too."""
        return self.exit_code > 0 and self.trace is None


def is_final(failures: Sequence[Ending]) -> bool:
    """Whether nothing clearer can follow: rank 0 speaks for all."""
    return any(one.rank == 0 and one.has_spoken for one in failures)


def raise_failure(failures: Sequence[Ending], num_processes: int) -> None:
    """Raises what the clearest of these says, and nothing where there are none.

    A signal from outside explains all that follows it, then an exception that nobody expected;
    those that gloo aborts are the victims of another process.

    Args:
        failures: of those that failed by themselves, the first one first.
        num_processes: how many there were.

    Raises:
        ChildError, RunError: always, but for no failures.
    """
    killed = [one for one in failures if one.exit_code < 0]
    aborted = [one.rank for one in killed if one.exit_code == -signal.SIGABRT]
    for one in killed:
        if one.rank not in aborted:
            raise RunError(f"worker process {one.rank} was ended by {_name(-one.exit_code)}")
    for one in failures:
        if one.trace is not None:
            raise ChildError(one.exit_code, one.trace)
    if aborted:
        raise RunError(_about_aborted(sorted(aborted), num_processes))
    if failures:
        raise ChildError(max(one.exit_code for one in failures), None)


def raise_interruption(number: int, endings: Sequence[Ending]) -> None:
    """Raises what follows from a signal to the launcher; nothing if all have finished all the same.

    Args:
        number: the signal.
        endings: of all processes.

    Raises:
        ChildError: they have said it themselves.
        InterruptedRunError: nobody has.
    """
    if not any(one.is_failure for one in endings):
        return
    if any(one.has_spoken for one in endings):
        raise ChildError(interrupted_exit_code(number), None)
    raise InterruptedRunError("interrupted", number)


def _about_aborted(aborted: list[int], num_processes: int) -> str:
    others = [rank for rank in range(num_processes) if rank not in aborted]
    suspects = _names(others) if others else "what all of them send"
    verb = "was" if len(aborted) == 1 else "were"
    return (
        f"{_names(aborted)} {verb} ended by SIGABRT: gloo does so to those that receive a message "
        f"of an unexpected size, not to those that send it; look first at {suspects}"
    )


def _names(ranks: Sequence[int]) -> str:
    plural = "es" if len(ranks) > 1 else ""
    return f"worker process{plural} {', '.join(map(str, ranks))}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"

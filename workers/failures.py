"""The ways a run ends badly, as the command reports them: one line and an exit code."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click


class UsageError(click.UsageError):
    """The user asked for something impossible: exit code 2, nothing was created."""


class RunError(click.ClickException):
    """The run failed: exit code 1."""


class InterruptedRunError(RunError):
    """A signal has ended the run, on all processes after the same round.

    Attributes:
        number: of the signal; None where another process has got it, and not this one.
    """

    def __init__(self, message: str, number: int | None) -> None:
        super().__init__(message)
        self.number = number


class Interruption(KeyboardInterrupt):
    """A signal where a run cannot stop in order.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Within, SIGTERM raises, as Ctrl-C does, so that nothing that was started goes on alone."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise Interruption(number)


def interrupted_exit_code(number: int | None = signal.SIGINT) -> int:
    """As a shell has it for this signal: 130 for Ctrl-C, 143 for SIGTERM; 1 for None."""
    return 1 if number is None else 128 + number

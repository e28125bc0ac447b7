"""How a command ends: its exit code, and one line where it fails.

Nothing that is imported here takes long.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import click

from compsgd.errors import CompsgdError
from compsgd.internal_errors import ElsewhereError, StoreError
from compsgd.startup import launched_local_rank, launched_rank
from compsgd.workers.failures import InterruptedRunError, Interruption, interrupted_exit_code
from compsgd.workers.launch.endings import ChildError
from compsgd.workers.report.standard_output import guarded_output

_GRACE_S = 10.0


def execute(command: click.Command, name: str) -> NoReturn:
    """Runs a command and exits: 0, 2 for a user's mistake, 1 for a failed run, 130 for Ctrl-C and
    143 for SIGTERM."""

    def run_command() -> Any:
        with guarded_output(goes_on=False):
            return command.main(prog_name=name, standalone_mode=False)

    result = report_failures(run_command)
    sys.exit(result if isinstance(result, int) else 0)


def report_failures(action: Callable[[], Any]) -> Any:
    """What `action` returns. Where it fails in a way of ours, one line and an exit code; where
    many processes fail alike, the first one on each machine says why."""
    try:
        return action()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except InterruptedRunError as error:
        _end_interrupted(error.format_message(), interrupted_exit_code(error.number))
    except StoreError as error:
        _tell(str(error))
        sys.exit(1)
    except (click.ClickException, ElsewhereError, CompsgdError) as error:
        _fail_together(error)
    except ChildError as error:
        # A process that failed in a way of ours has said so itself.
        if error.trace is not None:
            click.echo(error.trace, err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _end_interrupted("interrupted", _exit_code_of_interruption(error))


def _end_interrupted(message: str, exit_code: int) -> NoReturn:
    """Known to every process, so the first one on each machine speaks for all there."""
    if launched_local_rank() == 0:
        _tell(message)
    sys.exit(exit_code)


def _exit_code_of_interruption(error: BaseException) -> int:
    """click puts an exception of its own in front of what has come."""
    for cause in (error, error.__cause__):
        if isinstance(cause, Interruption):
            return interrupted_exit_code(cause.number)
    return interrupted_exit_code()


def _fail_together(error: Exception) -> NoReturn:
    """Where processes know of each other, only those tell why that no other speaks for."""
    message, exit_code = _message_and_exit_code(error)
    is_told = getattr(error, "is_told", None)
    if is_told is None:
        _fail(message, exit_code)
    if not is_told:
        _tell(message)
    sys.exit(exit_code)


def _message_and_exit_code(error: Exception) -> tuple[str, int]:
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, ElsewhereError):
        return str(error), 2 if error.kind == "UsageError" else 1
    return str(error), 1


def _fail(message: str, exit_code: int) -> NoReturn:
    if launched_local_rank() != 0:
        # Before the processes know of each other: all are ended as soon as one has failed. Where
        # the first one of this machine fails too, this one is ended here; else nobody but this one
        # knows why.
        time.sleep(_GRACE_S)
    _tell(message)
    sys.exit(exit_code)


def _tell(message: str) -> None:
    rank = launched_rank()
    with contextlib.suppress(OSError):  # where standard error is full or closed
        click.echo(f"Error: rank {rank}: {message}" if rank else f"Error: {message}", err=True)

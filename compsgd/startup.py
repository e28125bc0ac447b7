"""Starting a command: importing torch takes seconds, and Ctrl-C may come at any moment of them.

Nothing that is imported here takes long.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGINT
# Where a launcher such as torchrun has started this process, all of them are set.
LAUNCHER_VARIABLES = frozenset({"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})


def launched_rank() -> int:
    """Of this process among those that a launcher has started; 0 where none has, or does not say
    it in a number."""
    return _launched("RANK")


def launched_local_rank() -> int:
    """Of this process among those that a launcher has started on this machine; 0 for the one that
    speaks for them."""
    return _launched("LOCAL_RANK" if "LOCAL_RANK" in os.environ else "RANK")


def _launched(name: str) -> int:
    try:
        return int(os.environ[name]) if set(os.environ) >= LAUNCHER_VARIABLES else 0
    except ValueError:
        return 0


def run_command(load: Callable[[], Callable[[], object]]) -> None:
    """Imports a command and runs it. Ctrl-C before or behind it ends the process with exit code 130
    and without a word; within, it is a KeyboardInterrupt as usual.

    Args:
        load: imports what takes long, and gives the command.
    """
    with quiet_interrupts():
        command = load()
    try:
        command()
    finally:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def quiet_interrupts() -> Iterator[None]:
    """Within, which is for imports, Ctrl-C ends the process with exit code 130 and without a word;
    behind it, it is a KeyboardInterrupt."""
    signal.signal(signal.SIGINT, _end)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


def announce_loading() -> None:
    """As PyTorch takes seconds to load."""
    if "--help" not in sys.argv and "_COMPSGD_COMPLETE" not in os.environ:
        announce("loading PyTorch")


def announce(what: str) -> None:
    """A line on a terminal, as what comes next may take seconds; from one process of a machine."""
    # Without a standard error there is no such object.
    is_shown = sys.stderr is not None and sys.stderr.isatty()
    if is_shown and launched_local_rank() == 0:
        sys.stderr.write(f"{what} ...\n")
        sys.stderr.flush()


def _end(number: int, frame: FrameType | None) -> None:
    # An exception would come out of whatever is being imported, as a traceback.
    os._exit(EXIT_CODE)

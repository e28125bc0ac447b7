"""Starting a command: importing torch takes seconds, and Ctrl-C may come at any moment of them.

Nothing that is imported here takes long.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType

EXIT_CODE = 128 + signal.SIGINT


def run_command(load: Callable[[], Callable[[], object]]) -> None:
    """Imports a command and runs it. Ctrl-C before or behind it ends the process with exit code 130
    and without a word; within, it is a KeyboardInterrupt as usual.

    Args:
        load: imports what takes long, and gives the command.
    """
    signal.signal(signal.SIGINT, _end)
    command = load()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command()
    finally:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    # An exception would come out of whatever is being imported, as a traceback.
    os._exit(EXIT_CODE)

"""Standard output that may be closed, full, or read by somebody who goes away."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

_DESCRIPTOR = 1


class OutputError(click.ClickException):
    """What was asked for cannot be printed: exit code 1."""


class _Output(io.RawIOBase):
    """Descriptor 1, until it cannot be written; then nothing."""

    def __init__(self, is_closed: bool, goes_on: bool) -> None:
        self._is_closed = is_closed
        self._goes_on = goes_on
        self._is_lost = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return _DESCRIPTOR

    def isatty(self) -> bool:
        return not self._is_closed and os.isatty(_DESCRIPTOR)

    def write(self, data: Any) -> int:
        if self._is_lost:
            return len(data)
        if self._is_closed:
            return self._lose("it is closed", len(data))
        try:
            return os.write(_DESCRIPTOR, data)
        except BlockingIOError:
            raise
        except OSError as error:
            return self._lose(os.strerror(error.errno or 0), len(data))

    def _lose(self, reason: str, num_bytes: int) -> int:
        self._is_lost = True
        if not self._goes_on:
            raise OutputError(f"standard output cannot be written: {reason}")
        with contextlib.suppress(OSError):
            click.echo(
                f"standard output cannot be written ({reason}): going on without it; the results "
                "are written as always",
                err=True,
            )
        return num_bytes


@contextlib.contextmanager
def guarded_output(goes_on: bool) -> Iterator[None]:
    """Within, a standard output that cannot be written is a line on standard error; and characters
    that it has no bytes for are written as escapes.

    Args:
        goes_on: whether what is printed is only wanted: then nothing else happens.

    Raises:
        OutputError: it cannot be written, and what is printed is all that was asked for.
    """
    before = sys.stdout
    if before is not None and not _is_descriptor(before):
        # Captured by a test, or by a program that runs a command.
        yield
        return
    is_closed = before is None
    _fill_standard_descriptors()
    if before is not None:
        before.flush()
    sys.stdout = _text_output(_Output(is_closed, goes_on), before)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout = before


def _is_descriptor(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == _DESCRIPTOR)
    except (OSError, AttributeError, ValueError):
        return False


def _fill_standard_descriptors() -> None:
    """The next files that are opened would take the numbers of those that are closed, and get
    what libraries print."""
    with contextlib.suppress(OSError):
        descriptor = os.open(os.devnull, os.O_RDWR)
        while descriptor <= 2:
            descriptor = os.open(os.devnull, os.O_RDWR)
        os.close(descriptor)


def _text_output(raw: _Output, like: Any) -> io.TextIOWrapper:
    encoding = "utf-8" if like is None else like.encoding
    errors = "strict" if like is None else like.errors
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace" if errors == "strict" else errors,
        line_buffering=True,
    )

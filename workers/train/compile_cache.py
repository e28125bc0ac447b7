"""The folder that torch.compile keeps its work in; torch makes it as soon as an optimizer is made,
and none can be made without."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from compsgd.workers.failures import UsageError

log = logging.getLogger("compsgd")

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@contextlib.contextmanager
def usable_cache() -> Iterator[None]:
    """Within, it can be written: where it cannot, another one stands in for it, with a line in the
    log, and is deleted behind.

    Raises:
        UsageError: no temporary folder can be written to.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UsageError(
            "no temporary folder can be written to; set TMPDIR to a folder that can"
        ) from error
    asked_for = os.environ.get(_VARIABLE)
    reason = _why_unusable(asked_for)
    if asked_for is None or reason is None:
        yield
        return
    log.warning("%s=%s cannot be written (%s): going on without it", _VARIABLE, asked_for, reason)
    with tempfile.TemporaryDirectory(prefix="compsgd_", ignore_cleanup_errors=True) as folder:
        os.environ[_VARIABLE] = folder
        try:
            yield
        finally:
            os.environ[_VARIABLE] = asked_for


def _why_unusable(folder: str | None) -> str | None:
    if not folder:
        return None
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)

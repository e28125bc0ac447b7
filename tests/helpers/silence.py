"""For tests whose warnings are expected and say nothing new."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

LOG = logging.getLogger("compsgd")


@contextmanager
def silent_log() -> Iterator[None]:
    """Nothing is logged, until it ends: other tests look at the log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LOG, "disabled", True)
        yield

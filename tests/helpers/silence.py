"""For tests whose warnings are expected and say nothing new."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

LOG = logging.getLogger("compsgd")


def state_of_log() -> tuple[Any, ...]:
    """What others depend on."""
    return LOG.level, LOG.disabled, LOG.propagate, list(LOG.handlers)


@contextmanager
def silent_log() -> Iterator[None]:
    """Nothing is logged, until it ends: other tests look at the log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LOG, "disabled", True)
        yield


@contextmanager
def heard() -> Iterator[list[str]]:
    """What is logged, and goes nowhere else, until it ends."""
    messages: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LOG, "handlers", [Ear()])
        patch.setattr(LOG, "propagate", False)
        yield messages

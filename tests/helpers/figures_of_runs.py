"""Six figures take longer than a short run: runs in a test's own process draw none, unless they
should."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from compsgd.workers.results.experiment import Experiment

_DRAW = Experiment._draw


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Experiment, "_draw", lambda self: None)


@contextmanager
def drawing() -> Iterator[None]:
    """Within, they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "_draw", _DRAW)
        yield

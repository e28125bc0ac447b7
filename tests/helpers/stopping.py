"""Runs that are stopped after a given round, as a signal would, and what they leave behind."""

import contextlib

import numpy as np
import pytest

from compsgd.history import read_histories
from compsgd.workers.launch.watchdog import StopAgreement

MEASURED = {"seconds_hist", "compute_seconds_hist", "kernel_bytes_sent_hist"}


@contextlib.contextmanager
def stopped_after(num_rounds):
    """Every run in the context stops after so many of its rounds; never for None."""
    with pytest.MonkeyPatch.context() as patch:
        if num_rounds is not None:
            patch.setattr(StopAgreement, "is_due", lambda self: self._round >= num_rounds)
        yield


def outcome(folder):
    """Weights and histories, without what is measured, as bytes."""
    histories = read_histories(folder / "histories.pkl")
    found = {
        f"{cell} {metric}": np.asarray(values).tobytes()
        for cell, history in histories.items()
        for metric, values in history.items()
        if metric not in MEASURED
    }
    weights = {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir())}
    assert weights
    return found | weights

"""Histories of a sweep: what each (lr, decay) cell measured, and their file."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from compsgd.errors import DamagedDataError
from compsgd.files import atomic_write
from compsgd.history.pickled_numpy import numpy_globals
from compsgd.unpickling import unpickle

History = dict[str, Any]
Histories = dict[tuple[float, float], History]

_TRAILER_BYTES = len("\nsha256 \n") + 64
# What numbers of 64 bits can hold, signed or not.
_SMALLEST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**64 - 1


def write_histories(path: Path, histories: Histories) -> None:
    """Writes a pickled dict keyed by (lr, decay), atomically; behind it, where no reader of pickles
    looks, a digest of it.

    Args:
        path: of the file, usually histories.pkl.
        histories: {(lr, decay): {metric: list of numbers, or numpy array}}.

    Raises:
        OSError: it cannot be written; what was there is as it was.

    Examples:
        >>> import pickle
        >>> from pathlib import Path
        >>> from compsgd.history import write_histories
        >>> write_histories(Path("histories.pkl"), {(0.1, 1.0): {"test_acc_hist": [97.5]}})
        >>> pickle.loads(Path("histories.pkl").read_bytes())  # any reader of pickles will do
        {(0.1, 1.0): {'test_acc_hist': [97.5]}}
    """
    content = pickle.dumps(histories, protocol=4)
    with atomic_write(path) as file:
        file.write(content + _trailer(content))


def _trailer(content: bytes) -> bytes:
    return f"\nsha256 {hashlib.sha256(content).hexdigest()}\n".encode()


def _without_trailer(raw: bytes) -> bytes:
    """The pickle alone, checked against its digest; files of the original code have none."""
    content, trailer = raw[:-_TRAILER_BYTES], raw[-_TRAILER_BYTES:]
    if trailer.startswith(b"\nsha256 "):
        if trailer != _trailer(content):
            raise DamagedDataError("its content does not match its digest; it is damaged")
        return content
    if not raw.endswith(pickle.STOP):
        raise DamagedDataError("it does not end as a pickle does; it is damaged")
    return raw


def read_histories(path: str | Path) -> Histories:
    """Reads a histories.pkl, of ours or of the original research code, without running anything
    in it.

    Args:
        path: of the file.

    Returns:
        {(lr, decay): {metric: list of numbers, or numpy array}}. Losses are in nats, accuracies in
        percent, seconds and bytes of one step each.

    Raises:
        DamagedDataError: no such file, or one that holds something else.

    Examples:
        >>> from pathlib import Path
        >>> from compsgd.history import read_histories, write_histories
        >>> write_histories(Path("histories.pkl"), {(0.1, 1.0): {"test_acc_hist": [97.5]}})
        >>> read_histories("histories.pkl")
        {(0.1, 1.0): {'test_acc_hist': [97.5]}}
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DamagedDataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        content = _without_trailer(raw)
        return _checked(unpickle(content, numpy_globals(most_bytes=len(content))))
    except DamagedDataError as error:
        raise DamagedDataError(f"{path} is no histories file: {error}") from error


def _checked(histories: Any) -> Histories:
    """What was unpickled, if it is what a histories file holds."""
    if not isinstance(histories, dict) or not all(map(_is_cell, histories.items())):
        raise DamagedDataError("not a dict of (lr, decay) to metrics")
    for history in histories.values():
        for metric, values in history.items():
            if not _are_values(values):
                raise DamagedDataError(f"{metric:.100} holds something else than numbers")
    return histories


def _is_cell(item: tuple[Any, Any]) -> bool:
    key, history = item
    return (
        isinstance(key, tuple)
        and len(key) == 2
        and all(map(_is_number, key))
        and isinstance(history, dict)
        and all(isinstance(metric, str) and metric.isprintable() for metric in history)
    )


def _are_values(values: Any) -> bool:
    if isinstance(values, (list, tuple)):
        return all(map(_is_number, values))
    return isinstance(values, np.ndarray) or _is_number(values)


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return _SMALLEST_INTEGER <= value <= _LARGEST_INTEGER
    return isinstance(value, (float, np.generic))

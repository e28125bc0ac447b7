"""Histories of a sweep: what each (lr, decay) cell measured, and their file."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compsgd.errors import DamagedDataError
from compsgd.files import atomic_write

History = dict[str, Any]
Histories = dict[tuple[float, float], History]

# What numpy needs to rebuild an array or a scalar, under its names old and new.
_NUMPY_NAMES = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype")}


_TRAILER_BYTES = len("\nsha256 \n") + 64


class _Unpickler(pickle.Unpickler):
    """Admits builtin containers, numbers and numpy arrays: a pickle may name any function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NUMPY_NAMES:
            raise DamagedDataError(f"it names {module}.{name}, which no history needs")
        return _REPLACED.get(name) or super().find_class(module, name)


class _ArrayClass:
    """Stands for numpy.ndarray, which a pickle could call to make an array over its own bytes."""


def _reconstruct(kind: Any, shape: Any, code: Any) -> npt.NDArray[Any]:
    """An empty array, as numpy's own; what it holds comes with its state."""
    if kind is not _ArrayClass:
        raise DamagedDataError("it makes an array in a way of its own")
    return np.empty(0, dtype=np.int8)


def _dtype(*args: Any) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(*args)
    if found.hasobject:
        raise DamagedDataError("it holds an array of objects")
    return found


_REPLACED = {"ndarray": _ArrayClass, "_reconstruct": _reconstruct, "dtype": _dtype}


def write_histories(path: Path, histories: Histories) -> None:
    """Writes a pickled dict keyed by (lr, decay), atomically; behind it, where no reader of pickles
    looks, a digest of it.

    Args:
        path: of the file, usually histories.pkl.
        histories: {(lr, decay): {metric: list of numbers, or numpy array}}.

    Raises:
        OSError: it cannot be written; what was there is as it was.

    Example:
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

    Example:
        >>> from pathlib import Path
        >>> from compsgd.history import read_histories, write_histories
        >>> write_histories(Path("histories.pkl"), {(0.1, 1.0): {"test_acc_hist": [97.5]}})
        >>> read_histories("histories.pkl")
        {(0.1, 1.0): {'test_acc_hist': [97.5]}}
    """
    try:
        content = _without_trailer(Path(path).read_bytes())
        histories = _Unpickler(io.BytesIO(content)).load()
    except OSError as error:
        raise DamagedDataError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise DamagedDataError(f"{path} is no histories file: {error}") from error
    if not isinstance(histories, dict) or not all(map(_is_cell, histories.items())):
        raise DamagedDataError(f"{path} is no histories file: not a dict of (lr, decay) to metrics")
    return histories


def _is_cell(item: tuple[Any, Any]) -> bool:
    key, history = item
    return (
        isinstance(key, tuple)
        and len(key) == 2
        and all(isinstance(part, (int, float)) for part in key)
        and isinstance(history, dict)
        and all(isinstance(metric, str) for metric in history)
    )

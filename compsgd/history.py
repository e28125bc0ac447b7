"""Histories of a sweep: what each (lr, decay) cell measured, and their file."""

import io
import pickle
from pathlib import Path
from typing import Any

from compsgd.errors import CompsgdError
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


class _Unpickler(pickle.Unpickler):
    """Admits builtin containers, numbers and numpy arrays: a pickle may name any function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NUMPY_NAMES:
            raise CompsgdError(f"it names {module}.{name}, which no history needs")
        return super().find_class(module, name)


def write_histories(path: Path, histories: Histories) -> None:
    """Writes a pickled dict keyed by (lr, decay), atomically."""
    with atomic_write(path) as file:
        pickle.dump(histories, file, protocol=4)


def read_histories(path: str | Path) -> Histories:
    """Reads a histories.pkl, of ours or of the original research code, without running anything
    in it.

    Returns:
        {(lr, decay): {metric: list of numbers, or numpy array}}.

    Raises:
        CompsgdError: no such file, or one that holds something else.
    """
    try:
        histories = _Unpickler(io.BytesIO(Path(path).read_bytes())).load()
    except OSError as error:
        raise CompsgdError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise CompsgdError(f"{path} is no histories file: {error}") from error
    if not isinstance(histories, dict) or not all(map(_is_cell, histories.items())):
        raise CompsgdError(f"{path} is no histories file: not a dict of (lr, decay) to metrics")
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

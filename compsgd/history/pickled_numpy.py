"""What stands for numpy while a histories file is read.

numpy's own dtype and array take any state from a pickle, and a crafted one ends the process. Here
each is a stand-in that checks what it is given; arrays are made of bytes only when all is known.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from compsgd.errors import DamagedDataError
from compsgd.unpickling import Global, Globals, StandIn

_NUMBERS = {"b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}
_BYTE_ORDERS = {"<", ">", "|", "="}
_MOST_DIMENSIONS = 32
_MOST_ELEMENTS = 2**48


class _DType(StandIn):
    """A type of numbers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._byte_order = "="

    def set_state(self, state: Any) -> None:
        # The version, the byte order, and what only types with parts have.
        match state:
            case (3, str(byte_order), None, None, None, -1, -1, 0) if byte_order in _BYTE_ORDERS:
                self._byte_order = byte_order
            case _:
                raise DamagedDataError("it has a numpy dtype of another kind than plain numbers")

    def finish(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self._name).newbyteorder(self._byte_order)  # type: ignore[arg-type]
        return dtype


class _Array(StandIn):
    """An array, which gets what it holds as its state."""

    def __init__(self, make: "_ArrayMaker") -> None:
        self._make = make
        self._array: npt.NDArray[Any] | None = None

    def set_state(self, state: Any) -> None:
        match state:
            case (1, tuple(shape), _DType() as dtype, bool(is_fortran), bytes() | str() as data):
                order = "F" if is_fortran else "C"
                self._array = self._make(_as_bytes(data), dtype, shape, order)
            case _:
                raise DamagedDataError("it has a numpy array of another kind than plain numbers")

    def finish(self) -> npt.NDArray[Any]:
        if self._array is None:
            raise DamagedDataError("it has a numpy array without content")
        return self._array


class _ArrayMaker:
    """Makes arrays of bytes, of no more in all than a file has."""

    def __init__(self, most_bytes: int) -> None:
        self._left_bytes = most_bytes

    def __call__(
        self, data: bytes | bytearray, dtype: _DType, shape: tuple[Any, ...], order: Any
    ) -> npt.NDArray[Any]:
        numpy_dtype = dtype.finish()
        if not _is_shape(shape) or math.prod(shape) * numpy_dtype.itemsize != len(data):
            raise DamagedDataError("it has a numpy array whose size is not that of its content")
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise DamagedDataError("its arrays are larger than the file")
        flat = np.frombuffer(data, numpy_dtype) if data else np.empty(0, numpy_dtype)
        array: npt.NDArray[Any] = flat.reshape(shape, order=order).copy(order="K")
        return array


def _is_shape(shape: tuple[Any, ...]) -> bool:
    return (
        len(shape) <= _MOST_DIMENSIONS
        and all(type(size) is int and 0 <= size < _MOST_ELEMENTS for size in shape)
        and math.prod(size or 1 for size in shape) < _MOST_ELEMENTS
    )


def numpy_globals(most_bytes: int) -> Globals:
    """What a pickle with numbers and arrays of numpy names, old or new, of any protocol.

    Args:
        most_bytes: of all arrays together; no more than the file has.
    """
    arrays = _Arrays(_ArrayMaker(most_bytes))
    calls: dict[tuple[str, str], Callable[[Any], Any]] = {
        ("numpy", "dtype"): _dtype,
        ("_codecs", "encode"): _encode,
        ("builtins", "bytes"): _no_bytes,
        ("__builtin__", "bytes"): _no_bytes,
    }
    for core in ("numpy.core", "numpy._core"):
        calls[f"{core}.multiarray", "_reconstruct"] = arrays.reconstruct
        calls[f"{core}.multiarray", "scalar"] = arrays.scalar
        calls[f"{core}.numeric", "_frombuffer"] = arrays.from_buffer
    known = {names: Global(".".join(names), call) for names, call in calls.items()}
    return known | {("numpy", "ndarray"): _ARRAY_CLASS}


_ARRAY_CLASS = Global("numpy.ndarray")


class _Arrays:
    """numpy's functions for pickles."""

    def __init__(self, make: _ArrayMaker) -> None:
        self._make = make

    def reconstruct(self, arguments: Any) -> _Array:
        match arguments:
            case (kind, (0,), b"b" | "b") if kind is _ARRAY_CLASS:
                return _Array(self._make)
        raise DamagedDataError("it makes a numpy array in a way of its own")

    def from_buffer(self, arguments: Any) -> npt.NDArray[Any]:
        match arguments:
            case (bytes() | bytearray() as data, _DType() as dtype, tuple(shape), *layout):
                return self._laid_out(data, dtype, shape, layout)
        raise DamagedDataError("it makes a numpy array in a way of its own")

    def _laid_out(
        self, data: bytes | bytearray, dtype: _DType, shape: tuple[Any, ...], layout: list[Any]
    ) -> npt.NDArray[Any]:
        match layout:
            case ["C" | "F" as order]:
                return self._make(data, dtype, shape, order)
            case ["K", tuple(axes)] if sorted(axes) == list(range(len(shape))):
                array: npt.NDArray[Any] = self._make(data, dtype, shape, "C").transpose(axes)
                return array
        raise DamagedDataError("it lays a numpy array out in a way of its own")

    def scalar(self, arguments: Any) -> Any:
        match arguments:
            case (_DType() as dtype, bytes() | str() as data):
                return self._make(_as_bytes(data), dtype, (), "C")[()]
        raise DamagedDataError("it makes a numpy number in a way of its own")


def _dtype(arguments: Any) -> _DType:
    match arguments:
        case (str(name), 0 | False, 1 | True) if name in _NUMBERS:
            return _DType(name)
    raise DamagedDataError("it has a numpy dtype of another kind than plain numbers")


def _encode(arguments: Any) -> bytes:
    """Bytes as they stand in the protocols 0 to 2, which know text only."""
    match arguments:
        case (str(text), "latin1"):
            return _as_bytes(text)
    raise DamagedDataError("it has bytes in a way of its own")


def _as_bytes(data: bytes | str) -> bytes:
    """Python 2 has no other text than bytes."""
    return data if isinstance(data, bytes) else data.encode("latin1")


def _no_bytes(arguments: Any) -> bytes:
    if arguments != ():
        raise DamagedDataError("it has bytes in a way of its own")
    return b""

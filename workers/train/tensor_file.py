"""Reading what torch.save has written, without torch's own reader.

Such a file is a zip archive of a pickle and of the bytes of each storage. The pickle is read by a
machine that makes plain data alone, in which tensors are stood for until their sizes, strides and
bytes are known to fit; torch.load, even with weights_only, overflows the stack of the process for
some files and makes tensors of any size for others.
"""

import io
import math
import sys
import zipfile
from typing import Any

import torch
from torch import Tensor

from compsgd.errors import DamagedDataError
from compsgd.unpickling import Global, Globals, StandIn, unpickle

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_PICKLE = "data.pkl"
_MOST_DIMENSIONS = 64


class _Storage(StandIn):
    """The elements that tensors are views of."""

    def __init__(self, elements: Tensor) -> None:
        self.elements = elements

    def set_state(self, state: Any) -> None:
        raise DamagedDataError("it changes a storage")

    def finish(self) -> Any:
        raise DamagedDataError("it has a storage without a tensor")


def read_tensor_file(content: bytes) -> dict[Any, Any]:
    """A dict of tensors on the CPU and plain values.

    Args:
        content: of a file that torch.save has written.

    Raises:
        DamagedDataError: it is none, or holds anything else.

    Examples:
        >>> import io, torch
        >>> from compsgd.workers.train.tensor_file import read_tensor_file
        >>> file = io.BytesIO()
        >>> torch.save({"weights": torch.ones(2), "round": 7}, file)
        >>> read_tensor_file(file.getvalue())
        {'weights': tensor([1., 1.]), 'round': 7}
    """
    archive = _Archive(content)
    state = unpickle(archive.read(_PICKLE), _KNOWN, archive.storage)
    if not isinstance(state, dict):
        raise DamagedDataError(f"it holds {type(state).__name__} instead of a dict")
    return state


class _Archive:
    """The members of the zip archive, which are not compressed, by their names in its folder."""

    def __init__(self, content: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except Exception as error:  # damage meets every kind of check in there
            raise DamagedDataError(f"it is no zip archive: {error}") from error
        members = self._zip.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise DamagedDataError("it is compressed, which torch.save does not do")
        if sum(member.file_size for member in members) > len(content):
            raise DamagedDataError("its members are larger than the file")
        self._members = {member.filename.partition("/")[2]: member for member in members}
        if len(self._members) < len(members):
            raise DamagedDataError("it has members of the same name")
        self._storages: dict[str, _Storage] = {}
        if "byteorder" in self._members and self.read("byteorder") != sys.byteorder.encode():
            raise DamagedDataError("it was written on a machine of another byte order")

    def read(self, name: str) -> bytes:
        if name not in self._members:
            raise DamagedDataError(f"it has no {name:.100}")
        try:
            return self._zip.read(self._members[name])
        except Exception as error:  # the same
            raise DamagedDataError(f"its {name:.100} is damaged: {error}") from error

    def storage(self, persistent_id: Any) -> _Storage:
        match persistent_id:
            case ("storage", Global(name), str(key), str(), int(numel)) if name in _DTYPES:
                dtype = _DTYPES[name]
            case _:
                raise DamagedDataError("it has a storage of another kind than plain numbers")
        if key not in self._storages:
            self._storages[key] = _Storage(_elements(self.read(f"data/{key}"), dtype))
        storage = self._storages[key]
        if storage.elements.dtype != dtype or storage.elements.numel() != numel:
            raise DamagedDataError("it has a storage of another size or type than its content")
        return storage


def _elements(data: bytes, dtype: torch.dtype) -> Tensor:
    if len(data) % dtype.itemsize:
        raise DamagedDataError("it has a storage that ends within an element")
    if not data:
        return torch.empty(0, dtype=dtype)
    if dtype == torch.bool and max(data) > 1:
        raise DamagedDataError("it has a bool that is neither true nor false")
    # Of a bytearray, which may be written to.
    return torch.frombuffer(bytearray(data), dtype=dtype)


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (
            _Storage() as storage,
            int(offset),
            tuple(size),
            tuple(stride),
            False,
            dict() as hooks,
        ):
            if not hooks:
                return _view(storage.elements, offset, size, stride)
    raise DamagedDataError("it makes a tensor in a way of its own")


def _view(elements: Tensor, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Tensor:
    """Of elements that are there, each at most once."""
    if len(size) != len(stride) or len(size) > _MOST_DIMENSIONS:
        raise DamagedDataError("it has a tensor whose shape and strides do not fit")
    if not all(type(one) is int and 0 <= one < 2**62 for one in (offset, *size, *stride)):
        raise DamagedDataError("it has a tensor of sizes that are none")
    last = offset + sum((one - 1) * step for one, step in zip(size, stride, strict=True))
    numel = math.prod(size)
    if numel > elements.numel() or (numel and last >= elements.numel()):
        raise DamagedDataError("it has a tensor that reaches beyond its storage")
    if not numel:
        return torch.empty(size, dtype=elements.dtype)
    return elements.as_strided(size, stride, offset)


class _OrderedDict(dict[Any, Any], StandIn):
    """What a model's state is: a dict with the versions of its layers beside it, which ours do
    without."""

    def set_state(self, state: Any) -> None:
        if not isinstance(state, dict) or set(state) != {"_metadata"}:
            raise DamagedDataError("it has a dict with a state of its own")

    def finish(self) -> Any:
        return dict(self)


def _ordered_dict(arguments: tuple[Any, ...]) -> _OrderedDict:
    if arguments:
        raise DamagedDataError("it makes a dict in a way of its own")
    return _OrderedDict()


_KNOWN: Globals = {
    ("torch._utils", "_rebuild_tensor_v2"): Global("_rebuild_tensor_v2", _tensor),
    ("collections", "OrderedDict"): Global("OrderedDict", _ordered_dict),
    **{("torch", name): Global(name) for name in _DTYPES},
}

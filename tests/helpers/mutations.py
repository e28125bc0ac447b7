"""Every field of a valid value changed in every way: missing, extra, another type, negative, huge,
nested."""

import copy

import torch

_DEEP = 3000
_INSTEAD = {
    "None": None,
    "True": True,
    "-1": -1,
    "huge": 10**400,
    "2**63": 1 << 63,
    "nan": float("nan"),
    "text": "x",
    "empty text": "",
    "empty list": [],
    "list": [1],
    "mapping": {"a": 1},
    "empty mapping": {},
}
_TENSORS = {
    "scalar": torch.tensor(1.0),
    "vector": torch.zeros(7),
    "bytes": torch.zeros(2, 2, dtype=torch.uint8),
    "complex": torch.zeros(2, 2, dtype=torch.complex64),
    "sparse": torch.zeros(2, 2).to_sparse(),
    "meta": torch.zeros(2, 2, device="meta"),
}


def deep_list():
    """Deeper than Python's stack."""
    nest = []
    for _ in range(_DEEP):
        nest = [nest]
    return nest


def mutations(value, *, tensors=True):
    """(what was done, a changed copy), one after another.

    Args:
        value: mappings, lists, and what is in them.
        tensors: whether tensors are put into it, too; not for JSON.
    """
    instead = {**_INSTEAD, **(_TENSORS if tensors else {})}
    for path in _paths(value):
        for described, new in instead.items():
            yield f"{path}: {described}", _changed(value, path, copy.deepcopy(new))
        yield f"{path}: deep", _changed(value, path, deep_list())
        yield f"{path}: missing", _without(value, path)
        if isinstance(_at(value, path), dict):
            yield f"{path}: extra", _changed(value, (*path, "of somebody else"), 1)


def _paths(value, path=()):
    """Of everything inside; of a long list its first and last."""
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, (list, tuple)):
        items = {index: value[index] for index in sorted({0, len(value) - 1}) if value}.items()
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _at(value, path):
    for key in path:
        value = value[key]
    return value


def _changed(value, path, new):
    """Copied along the path only."""
    if not path:
        return new
    key, *rest = path
    if isinstance(value, dict):
        return {**value, key: _changed(value.get(key), rest, new)}
    return [*value[:key], _changed(value[key], rest, new), *value[key + 1 :]]


def _without(value, path):
    *parent, last = path
    holder = _at(value, parent)
    if isinstance(holder, dict):
        kept = {key: inner for key, inner in holder.items() if key != last}
    else:
        kept = [*holder[:last], *holder[last + 1 :]]
    return _changed(value, tuple(parent), kept)

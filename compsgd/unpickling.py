"""Reading pickles that others have written, without running anything in them.

A pickle is a program for a small stack machine, which may call whatever it names and set the state
of whatever it made. The machine here knows only what plain data needs: numbers, text, bytes, lists,
tuples and dicts, and stand-ins of ours for the few globals that a format names. Nothing is imported
by name, and no object but a stand-in of ours is called or given a state.
"""

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from compsgd.errors import DamagedDataError

# A minute's work, and at some 100 bytes each what a machine can hold.
_MOST_OPCODES = 20_000_000
# Of containers in each other: what is deeper, or contains itself, is no data of ours.
_MOST_LEVELS = 50
_MOST_SHOWN = 200
_KEYS = (str, int, float, bytes, type(None))


class Global(NamedTuple):
    """What stands for something that a pickle names.

    Attributes:
        name: as in the pickle, for messages.
        call: what it makes of its arguments; None for what must not be called.
    """

    name: str
    call: Callable[[tuple[Any, ...]], Any] | None = None


class StandIn(ABC):
    """What a call of a Global may return to be given a state later."""

    @abstractmethod
    def set_state(self, state: Any) -> None:
        """Raises DamagedDataError for a state that no writer gives it."""

    @abstractmethod
    def finish(self) -> Any:
        """What it stood for; DamagedDataError if it was never given what that needs."""


Globals = Mapping[tuple[str, str], Global]


def unpickle(content: bytes, known: Globals, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The data of a pickle of any protocol.

    Args:
        content: the pickle; nothing may follow it.
        known: by module and name, the globals that it may name.
        persistent: makes an object of its persistent id; there must be none without.

    Returns:
        builtin numbers, text, bytes, lists, tuples and dicts, and what the calls of `known` return.

    Raises:
        DamagedDataError: it is damaged, or holds anything else.

    Examples:
        >>> import pickle
        >>> from compsgd.unpickling import unpickle
        >>> unpickle(pickle.dumps({"loss": [2.5, 1.25]}), known={})
        {'loss': [2.5, 1.25]}
        >>> unpickle(pickle.dumps(print), known={})
        Traceback (most recent call last):
        compsgd.errors.DamagedDataError: it names builtins.print, which it has no need for
    """
    try:
        result = _Machine(known, persistent).run(content)
    except DamagedDataError:
        raise
    except Exception as error:  # each decoder of the standard library has errors of its own
        reason = _in_one_line(str(error) or type(error).__name__)
        raise DamagedDataError(f"it is no whole pickle: {reason}") from error
    return _finished(result, {}, level=0)


def _in_one_line(text: str) -> str:
    """Of a pickle's own making, and so perhaps long, or made for a terminal."""
    start = text[:_MOST_SHOWN]
    return start if start.isprintable() else ascii(start)


def _finished(value: Any, known: dict[int, Any], level: int) -> Any:
    """A copy in which no stand-in is left; what is referred to twice is copied once."""
    if isinstance(value, Global):
        raise DamagedDataError(f"it holds {value.name} itself")
    if not isinstance(value, (dict, list, tuple, StandIn)):
        return value
    if id(value) in known:
        return known[id(value)]
    if level == _MOST_LEVELS:
        raise DamagedDataError("it is nested too deeply, or contains itself")
    if isinstance(value, dict):
        copy: Any = {key: _finished(part, known, level + 1) for key, part in value.items()}
    elif isinstance(value, StandIn):
        copy = value.finish()
    else:
        copy = type(value)([_finished(part, known, level + 1) for part in value])
    known[id(value)] = copy
    return copy


class _Machine:
    """One run over one pickle."""

    def __init__(self, known: Globals, persistent: Callable[[Any], Any] | None) -> None:
        self._known = known
        self._persistent = persistent
        self._stack: list[Any] = []
        # The stacks below each mark.
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        position = 0
        for number, (opcode, argument, start) in enumerate(pickletools.genops(content)):
            if number == _MOST_OPCODES:
                raise DamagedDataError(f"it has more than {_MOST_OPCODES:,} parts")
            name, position = opcode.name, start or 0
            if name not in _STEPS:
                raise DamagedDataError(f"it has the opcode {name}, which plain data does not need")
            _STEPS[name](self, argument)
        if position + 1 != len(content):
            raise DamagedDataError("something follows its end")
        if len(self._stack) != 1 or self._below:
            raise DamagedDataError("it ends with other than one object")
        return self._stack[0]

    def skip(self, _: Any) -> None:
        pass

    def push(self, argument: Any) -> None:
        self._stack.append(argument)

    def mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def empty_list(self, _: Any) -> None:
        self._stack.append([])

    def empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def list_(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(items)

    def dict_(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._set_items(items)

    def tuple_(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def append(self, _: Any) -> None:
        self._append([self._stack.pop()])

    def appends(self, _: Any) -> None:
        self._append(self._since_mark())

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def set_items(self, _: Any) -> None:
        self._set_items(self._since_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing what is nested without end would overflow the stack of the process.
            parts = key if type(key) is tuple else (key,)
            if not all(isinstance(part, _KEYS) for part in parts):
                raise DamagedDataError("it has a dict with keys that are no plain values")
            target[key] = value

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise DamagedDataError("it refers to something that is not there")
        self._stack.append(self._memo[index])

    def global_(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self._push_global(module, name)

    def stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push_global(module, name)

    def _push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedDataError("it names something by other than text")
        if (module, name) not in self._known:
            named = _in_one_line(f"{module}.{name}")
            raise DamagedDataError(f"it names {named}, which it has no need for")
        self._stack.append(self._known[module, name])

    def reduce(self, _: Any) -> None:
        arguments = self._stack.pop()
        called = self._top(Global)
        if called.call is None or type(arguments) is not tuple:
            raise DamagedDataError(f"it calls {called.name} in a way of its own")
        self._stack[-1] = called.call(arguments)

    def build(self, _: Any) -> None:
        state = self._stack.pop()
        self._top(StandIn).set_state(state)

    def persistent_id(self, _: Any) -> None:
        if self._persistent is None:
            raise DamagedDataError("it refers to something outside of it")
        self._stack[-1] = self._persistent(self._stack[-1])

    def _top(self, kind: Any) -> Any:
        """What an opcode changes or calls; it is of this kind."""
        top = self._stack[-1]
        if not isinstance(top, kind):
            raise DamagedDataError("it changes or calls what is not made for it")
        return top


_Step = Callable[[_Machine, Any], None]


def _constant(value: Any) -> _Step:
    return lambda machine, _: machine.push(value)


def _tuple_of(size: int) -> _Step:
    def step(machine: _Machine, _: Any) -> None:
        stack = machine._stack
        if len(stack) < size:
            raise DamagedDataError("it makes a tuple of nothing")
        stack[-size:] = [tuple(stack[-size:])]

    return step


_INTEGERS = "INT BININT BININT1 BININT2 LONG LONG1 LONG4"
_FLOATS = "FLOAT BINFLOAT"
_TEXTS = (
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_STEPS: dict[str, _Step] = {
    **dict.fromkeys(["PROTO", "FRAME", "STOP"], _Machine.skip),
    **dict.fromkeys(f"{_INTEGERS} {_FLOATS} {_TEXTS}".split(), _Machine.push),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "MARK": _Machine.mark,
    "EMPTY_LIST": _Machine.empty_list,
    "EMPTY_DICT": _Machine.empty_dict,
    "LIST": _Machine.list_,
    "DICT": _Machine.dict_,
    "TUPLE": _Machine.tuple_,
    **{f"TUPLE{size}": _tuple_of(size) for size in (1, 2, 3)},
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}

"""What a value from outside must be: a small vocabulary to say it, and to check it.

Files, saved states and what other processes tell are checked by these before anything uses them.
An error names the place of the value, as "cells[3].lr is 'x'; it must be a finite number"; whose
value it is, says whoever asked.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from compsgd.checks import is_finite, is_number, shown
from compsgd.errors import CompsgdError, SettingError

LARGEST_INTEGER = (1 << 63) - 1
INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_PLAIN_DEPTH = 8


class MisfitError(CompsgdError, ValueError):
    """A value is not what it must be; the message begins with its place."""


class Kind(Protocol):
    """What a value may be.

    Attributes:
        meaning: in words, behind "it must be".
    """

    @property
    def meaning(self) -> str: ...

    def check(self, place: str, value: object) -> None:
        """Raises MisfitError for any other value; `place` is "" for the whole."""


@contextmanager
def does_not_fit() -> Iterator[None]:
    """Within, every error of ours says that it is about a saved state."""
    try:
        yield
    except CompsgdError as error:
        raise SettingError(f"this state_dict does not fit: {error}") from error


def misfit(place: str, value: object, meaning: str) -> MisfitError:
    return MisfitError(f"{place or 'it'} is {shown(value)}; it must be {meaning}")


def field_of(place: str, name: str) -> str:
    """The place of a field."""
    return f"{place}.{name}" if place else name


@dataclass(frozen=True)
class Anything:
    meaning: str = "anything"

    def check(self, place: str, value: object) -> None:
        pass


ANYTHING = Anything()


@dataclass(frozen=True)
class Integer:
    """An int, within bounds; a bool is none."""

    at_least: int = -LARGEST_INTEGER
    at_most: int = LARGEST_INTEGER

    @property
    def meaning(self) -> str:
        if self.at_most == LARGEST_INTEGER:
            return f"an integer of at least {self.at_least}"
        return f"an integer from {self.at_least} to {self.at_most}"

    def check(self, place: str, value: object) -> None:
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not (is_integer and self.at_least <= value <= self.at_most):  # type: ignore[operator]
            raise misfit(place, value, self.meaning)


COUNT = Integer(0)


@dataclass(frozen=True)
class Number:
    """A finite number, within bounds."""

    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def meaning(self) -> str:
        if self.at_least == -math.inf:
            return "a finite number"
        if self.at_most == math.inf:
            return f"a finite number of at least {self.at_least:g}"
        return f"a number from {self.at_least:g} to {self.at_most:g}"

    def check(self, place: str, value: object) -> None:
        if not (is_finite(value) and self.at_least <= value <= self.at_most):  # type: ignore[operator]
            raise misfit(place, value, self.meaning)


@dataclass(frozen=True)
class Measured:
    """A number; of a run that diverged it may be infinite or NaN."""

    meaning: str = "a number"

    def check(self, place: str, value: object) -> None:
        if not is_number(value) or (isinstance(value, int) and not is_finite(value)):
            raise misfit(place, value, self.meaning)


MEASURED = Measured()


@dataclass(frozen=True)
class Text:
    """A str; of a pattern, if one is given.

    Attributes:
        pattern: of the whole of it.
        described: the pattern in words.
    """

    pattern: str | None = None
    described: str = "text"

    @property
    def meaning(self) -> str:
        return self.described

    def check(self, place: str, value: object) -> None:
        is_text = isinstance(value, str)
        if not is_text or (self.pattern and not re.fullmatch(self.pattern, value)):  # type: ignore[call-overload]
            raise misfit(place, value, self.meaning)


TEXT = Text()
SHA256 = Text("[0-9a-f]{64}", "a SHA-256 of 64 hexadecimal digits")


@dataclass(frozen=True)
class Flag:
    meaning: str = "true or false"

    def check(self, place: str, value: object) -> None:
        if not isinstance(value, bool):
            raise misfit(place, value, self.meaning)


@dataclass(frozen=True)
class Exactly:
    """One value, and what equals it."""

    value: Any

    @property
    def meaning(self) -> str:
        return shown(self.value)

    def check(self, place: str, value: object) -> None:
        if not is_alike(value, self.value):
            raise misfit(place, value, self.meaning)


@dataclass(frozen=True)
class SavedSetting:
    """A setting on which saved state depends, as it is here."""

    name: str
    value: Any

    @property
    def meaning(self) -> str:
        return shown(self.value)

    def check(self, place: str, value: object) -> None:
        if not is_alike(value, self.value):
            raise MisfitError(
                f"it was saved with {self.name}={shown(value)}; here it is {self.value!r}"
            )


@dataclass(frozen=True)
class Optional:
    """None, or what another kind says."""

    kind: Kind

    @property
    def meaning(self) -> str:
        return f"nothing, or {self.kind.meaning}"

    def check(self, place: str, value: object) -> None:
        if value is not None:
            self.kind.check(place, value)


@dataclass(frozen=True)
class Plain:
    """None, a bool, a number, text, a tensor, or lists and mappings of these, a few levels deep."""

    depth: int = _PLAIN_DEPTH

    @property
    def meaning(self) -> str:
        return "a plain value: a number, text, or a short nest of lists of them"

    def check(self, place: str, value: object) -> None:
        if value is None or isinstance(value, (bool, Real, str)):
            return
        # A tensor in mid-computation cannot be copied.
        if isinstance(value, Tensor) and (value.is_leaf or not value.requires_grad):
            return
        if self.depth == 0 or not isinstance(value, (list, tuple, Mapping)):
            raise misfit(place, value, self.meaning)
        inner = Plain(self.depth - 1)
        if isinstance(value, Mapping):
            MappingOf(TEXT, inner).check(place, value)
        else:
            for index, one in enumerate(value):
                inner.check(f"{place}[{index}]", one)


@dataclass(frozen=True)
class ListOf:
    """A list or tuple, all of a kind.

    Attributes:
        length: how many; None for any number.
    """

    kind: Kind
    length: int | None = None

    @property
    def meaning(self) -> str:
        number = "" if self.length is None else f" of {self.length}"
        return f"a list{number}, each {self.kind.meaning}"

    def check(self, place: str, value: object) -> None:
        if not isinstance(value, (list, tuple)) or self.length not in (None, len(value)):
            raise misfit(place, value, self.meaning)
        for index, one in enumerate(value):
            self.kind.check(f"{place}[{index}]", one)


@dataclass(frozen=True)
class Row:
    """A list or tuple with a kind for each place."""

    kinds: Sequence[Kind]

    @property
    def meaning(self) -> str:
        return f"a list of {len(self.kinds)}"

    def check(self, place: str, value: object) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.kinds):
            raise misfit(place, value, self.meaning)
        for index, (kind, one) in enumerate(zip(self.kinds, value, strict=True)):
            kind.check(f"{place}[{index}]", one)


@dataclass(frozen=True)
class MappingOf:
    """A mapping, all keys of a kind and all values of another."""

    keys: Kind
    values: Kind

    @property
    def meaning(self) -> str:
        return f"a mapping from {self.keys.meaning} to {self.values.meaning}"

    def check(self, place: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise misfit(place, value, self.meaning)
        for key, one in value.items():
            self.keys.check(f"a key of {place or 'it'}", key)
            self.values.check(f"{place}[{shown(key)}]", one)


@dataclass(frozen=True)
class Fields:
    """A mapping of names to values, with a kind for each.

    Attributes:
        required: those that must be there.
        optional: those that may be.
        others: of what has another name; None where nothing else may be there.
    """

    required: Mapping[str, Kind]
    optional: Mapping[str, Kind] = field(default_factory=dict)
    others: Kind | None = None
    # How a field's place is written; by default as "cells[3].lr".
    place_of: Callable[[str, str], str] = field_of

    @property
    def meaning(self) -> str:
        return "a mapping" + (f" with {', '.join(self.required)}" if self.required else "")

    def check(self, place: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise misfit(place, value, self.meaning)
        for name in self.required:
            if name not in value:
                raise MisfitError(f"{place or 'it'} has no {name}")
        known = {**self.required, **self.optional}
        for name, one in value.items():
            TEXT.check(f"a field's name in {place or 'it'}", name)
            kind = known.get(name, self.others)
            if kind is None:
                raise MisfitError(
                    f"{place or 'it'} has a field {shown(name)}, which is none of its own"
                )
            kind.check(self.place_of(place, name), one)


@dataclass(frozen=True)
class TensorOf:
    """A dense tensor with values.

    Attributes:
        shape: of it; None for a length that may be any.
        dtypes: what it may be of; None for any floating type.
    """

    shape: Sequence[int | None]
    dtypes: Sequence[torch.dtype] | None = None

    @property
    def meaning(self) -> str:
        types = ["floating"] if self.dtypes is None else map(str, self.dtypes)
        of = " or ".join(one.removeprefix("torch.") for one in types)
        lengths = ", ".join("any" if one is None else str(one) for one in self.shape)
        return f"a dense {of} tensor of shape ({lengths}{',' * (len(self.shape) == 1)})"

    def check(self, place: str, value: object) -> None:
        if not (isinstance(value, Tensor) and self._fits(value)):
            raise misfit(place, value, self.meaning)

    def _fits(self, value: Tensor) -> bool:
        if not is_dense(value):
            return False
        has_type = value.is_floating_point() if self.dtypes is None else value.dtype in self.dtypes
        return (
            has_type
            and value.ndim == len(self.shape)
            and all(
                want in (None, have) for want, have in zip(self.shape, value.shape, strict=True)
            )
        )


def is_dense(value: Tensor) -> bool:
    """Whether its values lie in memory, one after another or in strides."""
    return value.layout == torch.strided and not (value.is_meta or value.is_quantized)


@dataclass(frozen=True)
class ScalarInteger:
    """An int within bounds, or a tensor of no dimension that holds one."""

    at_least: int
    at_most: int

    @property
    def meaning(self) -> str:
        return f"an integer from {self.at_least} to {self.at_most}, or a tensor of one"

    def check(self, place: str, value: object) -> None:
        number = value
        if isinstance(value, Tensor):
            TensorOf((), INTEGER_DTYPES).check(place, value)
            number = int(value)
        try:
            Integer(self.at_least, self.at_most).check(place, number)
        except MisfitError:
            raise misfit(place, number, self.meaning) from None


def is_alike(one: object, other: object) -> bool:
    """Whether two values of settings are equal; whatever they are, this raises nothing."""
    try:
        return bool(one == other)
    except Exception:  # arrays and tensors compare element by element, and some refuse to
        return False

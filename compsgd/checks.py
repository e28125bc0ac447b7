"""Argument checks: each returns the value it was given, or raises SettingError naming it."""

import math
from collections.abc import Collection
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from compsgd.errors import SettingError

_LARGEST = torch.finfo(torch.float32).max
_SMALLEST = torch.finfo(torch.float32).smallest_normal


def check_integer(name: str, value: object, at_least: int, at_most: float = math.inf) -> int:
    """Returns `value` as an int within [at_least, at_most]. A bool is not an integer here."""
    limit = f"from {at_least} to {at_most}" if at_most != math.inf else f"of at least {at_least}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise SettingError(f"{name} is {value!r}; it must be an integer {limit}")
    number = int(value)
    if not at_least <= number <= at_most:
        raise SettingError(f"{name} is {number}; it must be an integer {limit}")
    return number


def check_num_bits(value: object) -> int:
    return check_integer("num_bits", value, 1, 8)


def check_decay(name: str, value: object) -> float:
    """A range decay: the factor, in (0, 1], that a running extreme shrinks by in every round."""
    if not is_number(value) or not 0 < float(value) <= 1:  # type: ignore[arg-type]
        raise SettingError(f"{name} is {value!r}; it must be a number in (0, 1]")
    return float(value)  # type: ignore[arg-type]


def check_fraction(name: str, value: object) -> float:
    """A share of what was, kept from round to round: in [0, 1)."""
    if not is_number(value) or not 0 <= float(np.float32(value)) < 1:  # type: ignore[arg-type]
        raise SettingError(f"{name} is {value!r}; it must be a number in [0, 1)")
    return float(value)  # type: ignore[arg-type]


def check_lr(value: object, name: str = "lr") -> float:
    """A learning rate: 0, or one that is still above 0 and finite as float32, in which weights
    move. A tensor of one element is taken, too."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not is_number(number) or not (number == 0 or _SMALLEST <= float(number) <= _LARGEST):  # type: ignore[arg-type]
        raise SettingError(
            f"{name} is {value!r}; it must be 0 or a number above 0, from {_SMALLEST:g} to "
            f"{_LARGEST:g}"
        )
    return float(number)  # type: ignore[arg-type]


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise SettingError(f"{name} is {value!r}; it must be True or False")
    return value


def check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise SettingError(f"{name} is a {type(value).__name__}; it must be a torch.Tensor")
    return value


def check_choice(name: str, value: object, allowed: Collection[str]) -> str:
    """Returns `value` if it is one of the names of a registry."""
    if value not in allowed:
        raise SettingError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    return str(value)


def is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

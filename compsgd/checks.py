"""Argument checks: each returns the value it was given, or raises CompsgdError naming it."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from compsgd.errors import CompsgdError

_SMALLEST = torch.finfo(torch.float32).smallest_normal
_LARGEST = torch.finfo(torch.float32).max


def check_integer(name: str, value: object, at_least: int, at_most: float = math.inf) -> int:
    """Returns `value` as an int within [at_least, at_most]. A bool is not an integer here."""
    limit = f"from {at_least} to {at_most}" if at_most != math.inf else f"of at least {at_least}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise CompsgdError(f"{name} is {value!r}; it must be an integer {limit}")
    number = int(value)
    if not at_least <= number <= at_most:
        raise CompsgdError(f"{name} is {number}; it must be an integer {limit}")
    return number


def check_num_bits(value: object) -> int:
    return check_integer("num_bits", value, 1, 8)


def check_decay(name: str, value: object) -> float:
    """A range decay: the factor, in (0, 1], that a running extreme shrinks by in every round."""
    if not isinstance(value, Real) or not 0 < float(value) <= 1:
        raise CompsgdError(f"{name} is {value!r}; it must be a number in (0, 1]")
    return float(value)


def check_lr(value: object) -> float:
    """A learning rate that is still above 0 and finite as float32, in which weights move."""
    if not isinstance(value, Real) or not _SMALLEST <= float(value) <= _LARGEST:
        raise CompsgdError(
            f"lr is {value!r}; it must be a number above 0, from {_SMALLEST:g} to {_LARGEST:g}"
        )
    return float(value)


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise CompsgdError(f"{name} is {value!r}; it must be True or False")
    return value


def check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise CompsgdError(f"{name} is a {type(value).__name__}; it must be a torch.Tensor")
    return value


def check_choice(name: str, value: object, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise CompsgdError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    return str(value)

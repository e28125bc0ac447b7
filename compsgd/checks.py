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
_LONGEST_SHOWN = 80
_LONG_INTEGER_BITS = 1024


def shown(value: object) -> str:
    """A value as errors show it: short, whatever it is, and without running into its own."""
    if isinstance(value, Tensor):
        return _shown_tensor(value)
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"a {type(value).__name__} of {len(value)}" if value else repr(value)
    if isinstance(value, int) and value.bit_length() > _LONG_INTEGER_BITS:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except Exception:  # anybody may have written it
        return f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _shown_tensor(value: Tensor) -> str:
    if isinstance(value, torch.nn.UninitializedParameter):
        return "a tensor without a shape"
    kind = str(value.dtype).removeprefix("torch.")
    where = " without values (meta)" if value.is_meta else ""
    where += "" if value.layout == torch.strided else f" ({value.layout})"
    return f"a {kind} tensor of shape {tuple(value.shape)}{where}"


def check_integer(name: str, value: object, at_least: int, at_most: float = math.inf) -> int:
    """Returns `value` as an int within [at_least, at_most]. A bool is not an integer here."""
    limit = f"from {at_least} to {at_most}" if at_most != math.inf else f"of at least {at_least}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise SettingError(f"{name} is {shown(value)}; it must be an integer {limit}")
    number = int(value)
    if not at_least <= number <= at_most:
        raise SettingError(f"{name} is {shown(number)}; it must be an integer {limit}")
    return number


def check_num_bits(value: object) -> int:
    return check_integer("num_bits", value, 1, 8)


def check_decay(name: str, value: object) -> float:
    """A range decay: the factor, in (0, 1], that a running extreme shrinks by in every round."""
    if not is_number(value) or not 0 < value <= 1:  # type: ignore[operator]
        raise SettingError(f"{name} is {shown(value)}; it must be a number in (0, 1]")
    return float(value)  # type: ignore[arg-type]


def check_fraction(name: str, value: object) -> float:
    """A share of what was, kept from round to round: in [0, 1)."""
    is_fraction = is_number(value) and 0 <= value < 1  # type: ignore[operator]
    if not is_fraction or float(np.float32(value)) == 1:  # type: ignore[arg-type]
        raise SettingError(f"{name} is {shown(value)}; it must be a number in [0, 1)")
    return float(value)  # type: ignore[arg-type]


def check_lr(value: object, name: str = "lr") -> float:
    """A learning rate: 0, or one that is still above 0 and finite as float32, in which weights
    move. A tensor of one element is taken, too."""
    number = _as_number(value)
    if not is_number(number) or not (number == 0 or _SMALLEST <= number <= _LARGEST):  # type: ignore[operator]
        raise SettingError(
            f"{name} is {shown(value)}; it must be 0 or a number above 0, from {_SMALLEST:g} to "
            f"{_LARGEST:g}"
        )
    return float(number)  # type: ignore[arg-type]


def check_finite(name: str, value: object) -> float:
    """A number that a float can hold, as schedulers may make one of any size."""
    number = _as_number(value)
    if not is_finite(number):
        raise SettingError(f"{name} is {shown(value)}; it must be a finite number")
    return float(number)  # type: ignore[arg-type]


def _as_number(value: object) -> object:
    """What a tensor of one element holds; anything else as it is."""
    if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
        return value
    return value.item() if value.numel() == 1 else value


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise SettingError(f"{name} is {shown(value)}; it must be True or False")
    return value


def check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise SettingError(f"{name} is a {type(value).__name__}; it must be a torch.Tensor")
    return value


def check_choice(name: str, value: object, allowed: Collection[str]) -> str:
    """Returns `value` if it is one of the names of a registry."""
    if not isinstance(value, str) or value not in allowed:
        raise SettingError(f"{name} is {shown(value)}; it must be one of {', '.join(allowed)}")
    return value


def check_parameter(parameter: Tensor) -> None:
    """Raises SettingError for a parameter that cannot be moved: without a shape or values, sparse,
    or with elements that share their memory."""
    if isinstance(parameter, torch.nn.UninitializedParameter):
        raise SettingError(
            "a parameter has no shape yet (a lazy module): run a batch through the model first"
        )
    shape = tuple(parameter.shape)
    if parameter.is_meta:
        raise SettingError(
            f"a parameter of shape {shape} is on the meta device and has no values: materialise "
            "the model first (to_empty, and its weights)"
        )
    if parameter.layout != torch.strided:
        raise SettingError(f"a parameter of shape {shape} is sparse; train its dense form")
    sizes = zip(parameter.shape, parameter.stride(), strict=True)
    if parameter.numel() and any(size > 1 and stride == 0 for size, stride in sizes):
        raise SettingError(
            f"a parameter of shape {shape} is expanded: its elements share memory; clone() it first"
        )


def is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return is_number(value) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False

"""A state_dict of an optimizer, checked whole before any of it is taken over.

What is checked is that it is this optimizer's, that nothing is missing, and that every value is of
the type and shape that it must be. What numbers it holds is the saved run's own affair: one that
diverged goes on as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor

from compsgd.checks import check_finite, shown
from compsgd.kinds import (
    LARGEST_INTEGER,
    TEXT,
    Exactly,
    Fields,
    Flag,
    Integer,
    Kind,
    ListOf,
    MappingOf,
    MisfitError,
    Optional,
    Plain,
    SavedSetting,
    is_alike,
    misfit,
)

BIN_COUNTS = "bin_counts"
PENDING = "pending "
EXEMPT_RATIO = "exempt_lr_ratio"
IS_EXEMPT = "exempt"


@dataclass(frozen=True)
class ExpectedState:
    """What a state_dict must be of.

    Attributes:
        groups: of the optimizer that it is for.
        fixed: the settings that saved state depends on.
        by_parameter: what is remembered of each, by name.
        pending: what may be under way, by name.
        num_bins: of a step's bin counts; None for an optimizer that does not count.
    """

    groups: Sequence[Mapping[str, Any]]
    fixed: Mapping[str, Any]
    by_parameter: Sequence[Mapping[str, Kind]]
    pending: Mapping[str, Kind]
    num_bins: int | None


class SavedState(NamedTuple):
    """What a state_dict that fits holds.

    Attributes:
        groups: as saved.
        keys: of the parameters in model order.
        by_parameter: what is remembered of each, by name.
        pending: the ballots that were cast and not counted, by name.
        bin_counts: a list a step.
    """

    groups: list[dict[str, Any]]
    keys: list[Any]
    by_parameter: list[dict[str, Any]]
    pending: dict[str, Tensor]
    bin_counts: list[list[int]]

    @property
    def step(self) -> int:
        """How many rounds were taken."""
        return int(self.by_parameter[0]["step"]) if self.by_parameter else 0

    def as_state_dict(self) -> dict[str, Any]:
        """Without what has no place."""
        state = dict(zip(self.keys, self.by_parameter, strict=True))
        return {"state": state, "param_groups": self.groups}


def read_saved_state(state_dict: Any, expected: ExpectedState) -> SavedState:
    """What a state_dict holds; nothing in it is changed.

    Raises:
        MisfitError, SettingError: it is not of such an optimizer over so many parameters.
    """
    anything = MappingOf(_KEY, _StateOfParameter())
    if isinstance(state_dict, Mapping) and _is_of_the_old_format(state_dict.get("state")):
        raise MisfitError(
            "it is of compsgd 0.1, which kept its state in another way; train from the weights, or "
            "load it with that version"
        )
    Fields({"state": anything, "param_groups": _GROUPS}, others=Plain()).check("", state_dict)
    groups, state = state_dict["param_groups"], state_dict["state"]
    _check_groups(groups, expected)
    keys = list(chain.from_iterable(group["params"] for group in groups))
    if len(set(keys)) < len(keys):
        raise MisfitError("its param_groups name a parameter twice")
    saved = [dict(state.get(key, {})) for key in keys]
    for key, own, kinds in zip(keys, saved, expected.by_parameter, strict=True):
        _check_parameter(f"state[{key!r}]", own, kinds)
    if keys:
        _check_one_step(keys, saved)
    return SavedState(
        [dict(group) for group in groups],
        keys,
        [{name: own[name] for name in kinds} for own, kinds in zip(saved, expected.by_parameter,
                                                                   strict=True)],
        _pending(keys, saved, expected.pending),
        _bin_counts(keys, saved, expected.num_bins),
    )  # fmt: skip


def _is_of_the_old_format(state: Any) -> bool:
    return isinstance(state, Mapping) and ("ballots" in state or "ranges" in state)


def _check_groups(groups: Sequence[Mapping[str, Any]], expected: ExpectedState) -> None:
    sizes, own_sizes = (
        [len(group["params"]) for group in some] for some in (groups, expected.groups)
    )
    if sizes != own_sizes:
        raise MisfitError(f"it is of groups of {sizes} parameters; here are {own_sizes}")
    for index, (group, own) in enumerate(zip(groups, expected.groups, strict=True)):
        _kind_of_group(own, expected.fixed).check(f"param_groups[{index}]", group)
        if not is_alike(group.get(IS_EXEMPT), own.get(IS_EXEMPT)):
            raise MisfitError(
                f"param_groups[{index}].exempt is {shown(group.get(IS_EXEMPT))}; here it is "
                f"{own.get(IS_EXEMPT)!r}"
            )


def _kind_of_group(own: Mapping[str, Any], fixed: Mapping[str, Any]) -> Kind:
    settings = {name: SavedSetting(name, value) for name, value in fixed.items()}
    names = ListOf(TEXT, len(own["params"]))
    return Fields(
        {"momentum": Exactly(0.0), **settings, "lr": _Finite(), "l2": _Finite(), "params": _KEYS},
        {EXEMPT_RATIO: _Finite(), "initial_lr": _Finite(), IS_EXEMPT: Flag(),
         "param_names": Optional(names), "name": Plain()},
        others=Plain(),
    )  # fmt: skip


def _check_parameter(place: str, own: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    for name, kind in kinds.items():
        if name not in own:
            raise MisfitError(f"there is no {_described(name)}: {place} has no {name!r}")
        kind.check(f"{place}[{name!r}]", own[name])


def _check_one_step(keys: Sequence[Any], saved: Sequence[Mapping[str, Any]]) -> None:
    """A round is one for all parameters."""
    first = int(saved[0]["step"])
    for key, own in zip(keys, saved, strict=True):
        if int(own["step"]) != first:
            raise MisfitError(
                f"state[{key!r}]['step'] is {int(own['step'])}, and that of the first is {first}"
            )


def _pending(
    keys: Sequence[Any], saved: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind]
) -> dict[str, Tensor]:
    found = {}
    for name, value in saved[0].items() if saved else ():
        if name.startswith(PENDING):
            place, own_name = f"state[{keys[0]!r}][{name!r}]", name.removeprefix(PENDING)
            if own_name not in kinds:
                raise MisfitError(f"{place} has no place here: it is of a worker hosted elsewhere")
            kinds[own_name].check(place, value)
            found[own_name] = value
    return found


def _bin_counts(
    keys: Sequence[Any], saved: Sequence[Mapping[str, Any]], num_bins: int | None
) -> list[list[int]]:
    if num_bins is None or not saved or BIN_COUNTS not in saved[0]:
        return []
    counts: list[list[int]] = saved[0][BIN_COUNTS]
    kind = ListOf(ListOf(Integer(0, LARGEST_INTEGER), num_bins))
    kind.check(f"state[{keys[0]!r}][{BIN_COUNTS!r}]", counts)
    return counts


def _described(name: str) -> str:
    kind, _, worker = name.partition(".")
    return f"{kind} of worker {worker}" if worker else kind


class _Key:
    """A parameter's number, or its name in a distributed checkpoint."""

    meaning = "a parameter's number or name"

    def check(self, place: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise misfit(place, value, self.meaning)


class _StateOfParameter:
    """Values by name; which, is checked where they are used."""

    meaning = "a mapping of names to values"

    def check(self, place: str, value: object) -> None:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise misfit(place, value, self.meaning)


class _Finite:
    """A finite number, or a tensor of one."""

    meaning = "a finite number"

    def check(self, place: str, value: object) -> None:
        check_finite(place, value)


_KEY = _Key()
_KEYS = ListOf(_KEY)
_GROUPS = ListOf(Fields({"params": _KEYS}, others=Plain()))

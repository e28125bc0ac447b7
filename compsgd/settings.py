"""Every hyper-parameter of a vote, written down once: name, default, bounds, and what it does.

The optimizers, the aggregator, the hook, and the options of the command all read them here; so
does `help()`.
"""

import inspect
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar

from torch import Tensor

from compsgd.checks import (
    check_choice,
    check_decay,
    check_flag,
    check_fraction,
    check_integer,
    check_lr,
    is_number,
    shown,
)
from compsgd.codec.binning import BINNINGS
from compsgd.codec.compiling import COMPILE_CHOICES
from compsgd.errors import SettingError

MEAN_ABS = "mean_abs"
EXEMPT_OPTIMIZERS = ("adam", "sgd")
ENTROPY_CODINGS = ("off", "on", "auto")
_LARGEST_SCALE = 1e30

_Client = TypeVar("_Client", bound=type)


class Kind(Protocol):
    """What values a setting takes: raises SettingError, with its name, for any other."""

    def check(self, name: str, value: object) -> Any: ...


@dataclass(frozen=True)
class Integer:
    at_least: int
    at_most: int | None = None

    def check(self, name: str, value: object) -> int:
        return check_integer(
            name, value, self.at_least, *(() if self.at_most is None else (self.at_most,))
        )


@dataclass(frozen=True)
class OptionalInteger:
    """An integer, or None."""

    integer: Integer

    def check(self, name: str, value: object) -> int | None:
        return None if value is None else self.integer.check(name, value)


@dataclass(frozen=True)
class Choice:
    """One of the names of a registry."""

    names: Collection[str]

    def check(self, name: str, value: object) -> str:
        return check_choice(name, value, self.names)


@dataclass(frozen=True)
class Name:
    """The name of something whose registry is elsewhere, and refuses what it does not know."""

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            raise SettingError(f"{name} is {shown(value)}; it must be a name")
        return value


@dataclass(frozen=True)
class Flag:
    def check(self, name: str, value: object) -> bool:
        return check_flag(name, value)


@dataclass(frozen=True)
class Decay:
    """A number in (0, 1]."""

    def check(self, name: str, value: object) -> float:
        return check_decay(name, value)


@dataclass(frozen=True)
class Fraction:
    """A number in [0, 1)."""

    def check(self, name: str, value: object) -> float:
        return check_fraction(name, value)


@dataclass(frozen=True)
class OptionalLr:
    """A learning rate, or None."""

    def check(self, name: str, value: object) -> float | None:
        return None if value is None else check_lr(value, name)


@dataclass(frozen=True)
class Number:
    at_least: float
    at_most: float

    def check(self, name: str, value: object) -> float:
        if not (is_number(value) and self.at_least <= value <= self.at_most):  # type: ignore[operator]
            raise SettingError(
                f"{name} is {shown(value)}; it must be from {self.at_least} to {self.at_most:,}"
            )
        return float(value)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scale:
    """A number, or "mean_abs"."""

    def check(self, name: str, value: object) -> float | str:
        if isinstance(value, str) and value == MEAN_ABS:
            return MEAN_ABS
        if not (is_number(value) and abs(value) <= _LARGEST_SCALE):  # type: ignore[arg-type]
            raise SettingError(
                f'{name} is {shown(value)}; it must be "{MEAN_ABS}" or a number from '
                f"{-_LARGEST_SCALE:g} to {_LARGEST_SCALE:g}"
            )
        return float(value)  # type: ignore[arg-type]


def _setting(
    default: Any, kind: Kind, help: str, *, is_lasting: bool = False, is_shared: bool = True
) -> Any:
    """A field of VoteSettings.

    Args:
        default: its default.
        kind: the values that it takes.
        help: what it does, for `help()` and the command.
        is_lasting: whether saved ranges mean something only under the same value.
        is_shared: whether all processes must have the same value.
    """
    metadata = {"kind": kind, "help": help, "is_lasting": is_lasting, "is_shared": is_shared}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class VoteSettings:
    """The settings of a vote; frozen, and checked when they are made.

    `describe` says what each means. A client that does not know one of them refuses any value but
    its default.

    Source:
        design, sections 2 to 5.

    Raises:
        SettingError: a value out of bounds.

    Examples:
        >>> from compsgd import VoteSettings
        >>> VoteSettings(num_bits=1).num_bits
        1
        >>> VoteSettings(num_bits=9)
        Traceback (most recent call last):
        compsgd.errors.SettingError: num_bits is 9; it must be an integer from 1 to 8
    """

    num_bits: int = _setting(
        3, Integer(1, 8), "Bits of a level; the largest level is 2^(num_bits-1).", is_lasting=True
    )
    binning: str = _setting(
        "lin", Choice(BINNINGS),
        "Bins of the levels: equally wide (lin), or by the logarithm of 1.0001 + |g| (exp).",
        is_lasting=True,
    )  # fmt: skip
    decay_min: float = _setting(
        1.0, Decay(),
        "What the running minimum shrinks by in every round. Less means more elements in the "
        "outermost bins. The range takes 8 bytes a parameter and hosted worker.",
        is_lasting=True, is_shared=False,
    )  # fmt: skip
    decay_max: float = _setting(
        1.0, Decay(), "The same for the running maximum.", is_lasting=True, is_shared=False
    )
    momentum: float = _setting(
        0.0, Fraction(),
        "Each worker's running mean of its gradient, u = momentum * u + (1 - momentum) * g, is "
        "what becomes levels; 4 bytes a parameter and hosted worker. With sgd, the momentum of "
        "torch.optim.SGD, on the mean gradient.",
        is_lasting=True,
    )  # fmt: skip
    error_feedback: bool = _setting(
        False, Flag(),
        "Whether what discretising took from a gradient is added to the next one; 4 bytes a "
        "parameter and hosted worker.",
        is_lasting=True,
    )  # fmt: skip
    l2: float = _setting(
        0.0, Number(0, 1_000_000),
        "Decoupled weight decay, as AdamW's: a step first multiplies parameters by 1 - lr * l2. "
        "Parameter groups may differ in it.",
    )  # fmt: skip
    beta1: float = _setting(0.9, Fraction(), "Decay of Adam's first moment.", is_lasting=True)
    beta2: float = _setting(0.99, Fraction(), "Decay of Adam's second moment.", is_lasting=True)
    rand_zero: bool = _setting(
        True, Flag(),
        "Whether a level 0 becomes -1 or +1 at random: parameters whose gradient is 0, as rows of "
        "an embedding that a batch does not touch, then take random steps; exempt those. "
        "Otherwise zeros are kept, at up to one more bit an element.",
        is_lasting=True,
    )  # fmt: skip
    seed: int = _setting(0, Integer(0), "Fixes every random bit.", is_lasting=True)
    scale: float | str = _setting(
        1.0, Scale(),
        'What a level becomes as a gradient. A number: itself times that. "mean_abs": each '
        "tensor's mean absolute value is the mean of its workers', so that learning rates and "
        "adaptive optimizers keep their meaning, for 4 more bytes a tensor.",
    )  # fmt: skip
    exchange: str = _setting(
        "auto", Name(),
        "How ballots travel: all_gather, scatter_reduce, or auto, which takes what sends less to "
        "vote for so many workers; or hierarchical, which adds them up inside each host first, so "
        "that its link carries one sum however many workers it has.",
    )  # fmt: skip
    entropy_coding: str = _setting(
        "off", Choice(ENTROPY_CODINGS),
        "Whether packed codes go through an entropy coder on their way: of 3 bits an element half "
        "to three quarters are left, for 5 ns of computing; with the same results. For 2 bits and "
        'more without zeros, over gloo. "auto": where the link is slower than that, as measured '
        "before the first vote.",
    )  # fmt: skip
    min_compress_numel: int = _setting(
        0, Integer(0), "Smaller parameters are averaged in float32.", is_lasting=True
    )
    exempt_1d: bool = _setting(
        False, Flag(), "Whether vectors and scalars (norms, biases) are averaged, too.",
        is_lasting=True,
    )  # fmt: skip
    exempt_optimizer: str = _setting(
        "adam", Choice(EXEMPT_OPTIMIZERS),
        "What moves exempt parameters by the mean gradient: adam with betas (0.9, 0.99), or sgd "
        "with a momentum of 0.9.",
        is_lasting=True,
    )  # fmt: skip
    exempt_lr: float | None = _setting(
        None, OptionalLr(),
        "The learning rate of exempt parameters; it follows the schedule of lr. None for lr.",
    )  # fmt: skip
    start_vote_iter: int = _setting(
        0, Integer(0), "Iterations before the first vote, with plain averages."
    )
    fallback: bool = _setting(
        False, Flag(),
        "Whether the first seven steps find out if the vote pays here: it takes turns with plain "
        "averaging, and what takes less time stays. Needs scale=\"mean_abs\".",
    )  # fmt: skip
    strict: bool = _setting(
        False, Flag(), "Whether a gradient that is not finite is an error instead of sitting out."
    )
    count_usages: bool = _setting(
        False, Flag(),
        "Whether `bin_counts` grows by one int64 array, shape (2^num_bits + 1,), in every step: "
        "how many elements of the update had level -L, ..., L.",
    )  # fmt: skip
    compile: str = _setting(
        "auto", Choice(COMPILE_CHOICES),
        'What is compiled: "native" what Numba can do on a CPU; "on" the rest with torch.compile, '
        'too; "off" nothing; "auto" what takes less time than it saves.',
        is_shared=False,
    )  # fmt: skip
    num_chunks: int | None = _setting(
        None, OptionalInteger(Integer(1, 4096)),
        "Into how many chunks a vector is cut, so that one is coded while others travel; neither "
        "results nor bytes depend on it. None: as many as pay, by the size of the vector and the "
        "measured speed of the link.",
    )  # fmt: skip
    check_every: int = _setting(
        100, Integer(0),
        "Steps between comparisons of the processes: a digest of what each received and of its "
        "weights. 0 for never.",
    )  # fmt: skip
    verify_fraction: float = _setting(
        0.0, Number(0, 1),
        "The share of votes of scatter_reduce in which each process counts somebody else's shard "
        "once more, picked by all together afterwards, so that nobody can tell before.",
    )  # fmt: skip
    timeout_s: float = _setting(
        1800.0, Number(0.001, 10_000_000), "Seconds that a collective may take.", is_shared=False
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            checked = one.metadata["kind"].check(one.name, getattr(self, one.name))
            object.__setattr__(self, one.name, checked)

    @property
    def factor(self) -> float | None:
        """What a level becomes; None for "mean_abs"."""
        return None if isinstance(self.scale, str) else self.scale

    def exempts(self, parameter: Tensor) -> bool:
        """Whether a parameter is averaged in float32 instead of voted on."""
        is_vector = self.exempt_1d and parameter.ndim <= 1
        return is_vector or parameter.numel() < self.min_compress_numel

    def lasting(self) -> dict[str, Any]:
        """Those under which saved ranges go on as if nothing had happened."""
        return self._marked("is_lasting")

    def shared(self) -> dict[str, Any]:
        """Those that all processes must have alike."""
        return self._marked("is_shared")

    def _marked(self, mark: str) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self) if one.metadata[mark]}

    @classmethod
    def of_client(
        cls,
        client: str,
        known: Sequence[str],
        settings: "VoteSettings | None",
        changes: Mapping[str, Any],
    ) -> "VoteSettings":
        """The settings that a client was called with.

        Args:
            client: its name, for errors.
            known: the settings that mean something to it.
            settings: to start from; None for the defaults.
            changes: keyword arguments, which win.

        Raises:
            SettingError: a setting that there is not, or that the client does not know.
        """
        check_known(client, known, changes)
        if settings is not None and not isinstance(settings, cls):
            raise SettingError(f"settings is a {type(settings).__name__}; it must be VoteSettings")
        found = replace(settings or cls(), **changes)
        for one in fields(cls):
            if one.name not in known and getattr(found, one.name) != one.default:
                raise SettingError(
                    f"{client} has no setting {one.name}, which is {getattr(found, one.name)!r}; "
                    f"there are {', '.join(known)}"
                )
        return found


def check_known(client: str, known: Sequence[str], names: Collection[str]) -> None:
    """Raises SettingError for names of settings that a client does not know."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SettingError(
            f"{client} has no setting {', '.join(unknown)}; there are {', '.join(known)}"
        )


# Which settings mean something to which client.
_EVERY_OPTIMIZER = ("l2", "strict", "check_every", "timeout_s")
SGD_SETTINGS = ("momentum", *_EVERY_OPTIMIZER)
ADAMW_SETTINGS = ("beta1", "beta2", *_EVERY_OPTIMIZER)
SIGN_SETTINGS = (
    "momentum", "rand_zero", "min_compress_numel", "exempt_1d", "exempt_optimizer", "exempt_lr",
    "seed", "count_usages", "compile", "num_chunks", "verify_fraction", "entropy_coding",
    *_EVERY_OPTIMIZER,
)  # fmt: skip
LEVEL_SETTINGS = (
    "num_bits", "binning", "decay_min", "decay_max", "error_feedback", *SIGN_SETTINGS,
)  # fmt: skip
AGGREGATOR_SETTINGS = (
    "num_bits", "binning", "decay_min", "decay_max", "momentum", "error_feedback", "rand_zero",
    "scale", "exchange", "min_compress_numel", "exempt_1d", "seed", "compile", "check_every",
    "num_chunks", "verify_fraction", "entropy_coding", "timeout_s",
)  # fmt: skip
FSDP_SETTINGS = (*AGGREGATOR_SETTINGS, "start_vote_iter")
HOOK_SETTINGS = (*FSDP_SETTINGS, "fallback")


def setting_field(name: str) -> "Field[Any]":
    """The field of a setting: `default`, and `metadata` with "kind" and "help"."""
    return VoteSettings.__dataclass_fields__[name]


def describe(names: Sequence[str]) -> str:
    """Lines for the Args of a docstring, one setting after another."""
    lines = [f"{name}: {setting_field(name).metadata['help']}" for name in names]
    return "\n".join(
        textwrap.fill(line, 84, subsequent_indent="    ", break_on_hyphens=False) for line in lines
    )


def takes_settings(*names: str, **texts: str) -> Callable[[_Client], _Client]:
    """Decorates a client whose __init__ ends in **changes: its signature then shows the settings
    that it knows.

    Args:
        names: of the settings; `{settings}` in its docstring becomes what they mean.
        texts: other placeholders of its docstring, and what they become.
    """

    def decorate(client: _Client) -> _Client:
        signature = inspect.signature(client)
        own_defaults = getattr(client, "own_defaults", {})
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=own_defaults.get(name, setting_field(name).default),
                annotation=setting_field(name).type,
            )
            for name in names
            if name not in signature.parameters
        ]
        client.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        for placeholder, text in {"settings": describe(names), **texts}.items():
            indented = textwrap.indent(text, " " * 8).strip()
            client.__doc__ = (client.__doc__ or "").replace(f"{{{placeholder}}}", indented)
        return client

    return decorate

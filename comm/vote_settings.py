"""What a vote on somebody else's gradients can be told."""

from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from compsgd.binning import BINNINGS
from compsgd.checks import check_choice, check_decay, check_flag, check_integer, check_num_bits
from compsgd.comm.exchange import EXCHANGES
from compsgd.compiling import COMPILE_CHOICES
from compsgd.errors import CompsgdError

MEAN_ABS = "mean_abs"
_LARGEST_SCALE = 1e30
_TIMEOUTS_S = (0.001, 10_000_000)
# What a rank may have for itself.
_OWN = ("decay_min", "decay_max", "compile", "timeout_s")
# What saved ranges mean something under.
_LASTING = ("num_bits", "binning", "decay_min", "decay_max", "rand_zero", "seed",
            "min_compress_numel", "exempt_1d")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VoteSettings:
    """Settings of `VoteState`, which explains them; an argument out of bounds is a
    CompsgdError."""

    num_bits: int
    binning: str
    decay_min: float
    decay_max: float
    rand_zero: bool
    scale: float | str
    exchange: str
    min_compress_numel: int
    exempt_1d: bool
    start_vote_iter: int
    seed: int
    compile: str
    timeout_s: float

    def __post_init__(self) -> None:
        check_num_bits(self.num_bits)
        check_choice("binning", self.binning, BINNINGS)
        check_decay("decay_min", self.decay_min)
        check_decay("decay_max", self.decay_max)
        check_flag("rand_zero", self.rand_zero)
        _check_scale(self.scale)
        check_choice("exchange", self.exchange, EXCHANGES)
        check_integer("min_compress_numel", self.min_compress_numel, 0)
        check_flag("exempt_1d", self.exempt_1d)
        check_integer("start_vote_iter", self.start_vote_iter, 0)
        check_integer("seed", self.seed, 0)
        check_choice("compile", self.compile, COMPILE_CHOICES)
        _check_timeout(self.timeout_s)

    @property
    def factor(self) -> float | None:
        """What a level becomes; None for "mean_abs"."""
        return None if isinstance(self.scale, str) else float(self.scale)

    def lasting(self) -> dict[str, Any]:
        """Those under which saved ranges go on as if nothing had happened."""
        return {name: getattr(self, name) for name in _LASTING}

    def shared(self) -> dict[str, Any]:
        """Those that all processes must have alike."""
        return {name: value for name, value in self.as_dict().items() if name not in _OWN}

    def for_optimizer(self) -> dict[str, Any]:
        """Those that compsgd.CompressedSGDVote takes."""
        names = ("num_bits", "binning", "decay_min", "decay_max", "rand_zero", "seed", "compile")
        return {name: getattr(self, name) for name in names}

    def as_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


SETTING_NAMES = tuple(field.name for field in fields(VoteSettings))


def _check_scale(scale: object) -> None:
    if scale != MEAN_ABS and not (_is_number(scale) and abs(scale) <= _LARGEST_SCALE):  # type: ignore[arg-type]
        raise CompsgdError(
            f'scale is {scale!r}; it must be "{MEAN_ABS}" or a number from {-_LARGEST_SCALE:g} to '
            f"{_LARGEST_SCALE:g}"
        )


def _check_timeout(timeout_s: object) -> None:
    low, high = _TIMEOUTS_S
    if not (_is_number(timeout_s) and low <= timeout_s <= high):  # type: ignore[operator]
        raise CompsgdError(f"timeout_s is {timeout_s!r}; it must be from {low} to {high:,}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

"""The learning rate of every round (design, section 2b e)."""

import math
from collections.abc import Callable

from compsgd.checks import is_number
from compsgd.errors import SettingError

# By name: what is left of lr when a share of the rounds behind the warm-up is over.
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda lr, over: lr,
    "linear": lambda lr, over: lr * (1 - over),
    "cosine": lambda lr, over: lr * (1 + math.cos(math.pi * over)) / 2,
}


def lr_of_round(
    lr: float, schedule: str, round_: int, num_rounds: int, num_warmup_rounds: int
) -> float:
    """A pure function of the round's number, so that a resumed run needs nothing else.

    Args:
        lr: the largest.
        schedule: one of SCHEDULES.
        round_: from 0.
        num_rounds: of the whole run.
        num_warmup_rounds: in which lr rises, fewer than all.
    """
    if round_ < num_warmup_rounds:
        return lr * (round_ + 1) / num_warmup_rounds
    over = (round_ - num_warmup_rounds) / (num_rounds - num_warmup_rounds)
    return SCHEDULES[schedule](lr, over)


def count_warmup_rounds(warmup: float, num_rounds: int) -> int:
    """Rounds of warm-up; of a share the nearest number, and the larger of two that are as near."""
    return math.floor(warmup * num_rounds + 0.5) if warmup < 1 else int(warmup)


def check_warmup(value: object) -> float:
    """Returns a share of all rounds below 1, or a whole number of rounds."""
    is_one = is_number(value) and 0 <= value < math.inf  # type: ignore[operator]
    if not is_one or (value > 1 and value != int(value)):  # type: ignore[operator,call-overload]
        raise SettingError(
            f"warmup is {value!r}; it must be a share of all rounds below 1, or a number of rounds"
        )
    return float(value)  # type: ignore[arg-type]

"""What each optimizer is trained with where nothing else is said."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings that suit an optimizer, named as on the command line.

    `range_decay` is the decay of the range; it is 1.0 where there is none.
    """

    lr: float
    momentum: float
    warmup: float
    range_decay: float = 1.0
    lr_schedule: str = "cosine"
    l2: float = 0.0

    def as_options(self) -> dict[str, Any]:
        """By option; those that span the sweep are tuples."""
        return vars(self) | {"lr": (self.lr,), "range_decay": (self.range_decay,)}


_LEVELS = Recipe(lr=0.001, momentum=0.9, warmup=0.1, range_decay=0.99)

RECIPES = {
    "sgd": Recipe(lr=0.1, momentum=0.9, warmup=0.0),
    "adamw": Recipe(lr=0.003, momentum=0.0, warmup=0.1, l2=0.01),
    "sign_sgd": Recipe(lr=0.001, momentum=0.9, warmup=0.1),
    "compressed_sgd": _LEVELS,
    "compressed_sgd_vote": _LEVELS,
}


def describe_default(option: str) -> str:
    """The values of an option that the recipes have, for the help."""
    by_value: dict[Any, list[str]] = {}
    for optimizer, recipe in RECIPES.items():
        by_value.setdefault(getattr(recipe, option), []).append(optimizer)
    if len(by_value) == 1:
        return str(next(iter(by_value)))
    values = [f"{value} for {', '.join(names)}" for value, names in by_value.items()]
    return f"depends on the optimizer: {'; '.join(values)}"

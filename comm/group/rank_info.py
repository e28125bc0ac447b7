"""Which process this is (torchrun's environment variables)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from compsgd.errors import SettingError
from compsgd.startup import LAUNCHER_VARIABLES

_ATTEMPT = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True)
class RankInfo:
    """This process among the others.

    Attributes:
        launched: whether torchrun, or something that sets its variables, started this process.
        attempt: how often torchrun has started this run before.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    launched: bool = False
    attempt: int = 0

    @property
    def machine(self) -> range:
        """The ranks on this process's machine, as torchrun and Slurm number them."""
        first = self.rank - self.local_rank
        return range(first, first + self.local_world_size)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "RankInfo":
        """Raises SettingError, which names it, for a variable that is no number."""
        if not set(environment) >= LAUNCHER_VARIABLES:
            return cls()
        rank = _number("RANK", environment["RANK"])
        world_size = _number("WORLD_SIZE", environment["WORLD_SIZE"])
        return cls(
            rank,
            world_size,
            _number("LOCAL_RANK", environment.get("LOCAL_RANK", rank)),
            _number("LOCAL_WORLD_SIZE", environment.get("LOCAL_WORLD_SIZE", world_size)),
            launched=True,
            attempt=_number(_ATTEMPT, environment.get(_ATTEMPT, 0)),
        )


def _number(name: str, value: str | int) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise SettingError(
            f"{name} is {value!r} in the environment; it must be an integer, as torchrun sets it"
        ) from error

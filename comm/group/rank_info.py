"""Which process this is (torchrun's environment variables)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from compsgd.errors import SettingError


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

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "RankInfo":
        """Raises SettingError for variables that are no numbers."""
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(environment):
            return cls()
        try:
            rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        except ValueError as error:
            raise SettingError(
                f"RANK={environment['RANK']} and WORLD_SIZE={environment['WORLD_SIZE']} in the "
                "environment must be integers, as torchrun sets them"
            ) from error
        return cls(
            rank,
            world_size,
            int(environment.get("LOCAL_RANK", rank)),
            int(environment.get("LOCAL_WORLD_SIZE", world_size)),
            launched=True,
            attempt=int(environment.get("TORCHELASTIC_RESTART_COUNT", 0)),
        )

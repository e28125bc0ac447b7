"""Which process this is, and joining the others (torchrun's environment variables)."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from compsgd.comm.collectives import Collectives
from compsgd.comm.kernel_counters import open_sockets
from compsgd.comm.ledger import Ledger, Purpose
from compsgd.errors import CompsgdError

# Others may wait this long while one process downloads a data set or evaluates.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Place:
    """This process among the others.

    Attributes:
        launched: whether torchrun, or something that sets its variables, started this process.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    launched: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Place":
        """Raises CompsgdError for variables that are no numbers."""
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(environment):
            return cls()
        try:
            rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        except ValueError as error:
            raise CompsgdError(
                f"RANK={environment['RANK']} and WORLD_SIZE={environment['WORLD_SIZE']} in the "
                "environment must be integers, as torchrun sets them"
            ) from error
        return cls(
            rank,
            world_size,
            int(environment.get("LOCAL_RANK", rank)),
            int(environment.get("LOCAL_WORLD_SIZE", world_size)),
            launched=True,
        )


@dataclass(frozen=True)
class Network:
    """The collectives of a run, by purpose, over one ledger.

    Attributes:
        gradient_sockets: the sockets that gradient traffic alone goes through.
    """

    ledger: Ledger
    gradient: Collectives
    evaluation: Collectives
    bookkeeping: Collectives
    gradient_sockets: frozenset[str]


@contextmanager
def connect(
    place: Place, num_workers: int, backend: str, timeout_s: float, device: torch.device
) -> Iterator[Network]:
    """Joins the process group of a launched process for as long as the context lasts.

    Args:
        place: this process.
        num_workers: N, all workers together.
        backend: "gloo" or "nccl".
        timeout_s: how long a gradient collective may take; others wait for hours.
        device: where this process computes.
    """
    ledger = Ledger()
    if not place.launched:
        yield _network(ledger, num_workers, None, None)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, timeout=_PATIENCE, device_id=device if backend == "nccl" else None
    )
    try:
        others = open_sockets()
        gradient_group = _new_group(timedelta(seconds=timeout_s))
        sockets = open_sockets() - others
        yield _network(ledger, num_workers, gradient_group, _new_group(_PATIENCE), sockets)
    finally:
        dist.destroy_process_group()


def _new_group(timeout: timedelta) -> dist.ProcessGroup:
    group = dist.new_group(timeout=timeout)
    assert isinstance(group, dist.ProcessGroup), "every process is a member of it"
    return group


def _network(
    ledger: Ledger,
    num_workers: int,
    gradient_group: dist.ProcessGroup | None,
    other_group: dist.ProcessGroup | None,
    gradient_sockets: frozenset[str] = frozenset(),
) -> Network:
    return Network(
        ledger,
        Collectives(ledger, Purpose.GRADIENT, num_workers, gradient_group),
        Collectives(ledger, Purpose.EVALUATION, num_workers, other_group),
        Collectives(ledger, Purpose.BOOKKEEPING, num_workers, other_group),
        gradient_sockets,
    )

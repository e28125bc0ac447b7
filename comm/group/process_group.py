"""Joining the other processes of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from compsgd.comm.group.collectives import CollectiveError, Collectives
from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.group.store import Store
from compsgd.comm.traffic.kernel_counters import open_sockets
from compsgd.comm.traffic.ledger import Ledger, Purpose

# Others may wait this long while one process downloads a data set or evaluates.
_PATIENCE = timedelta(hours=6)


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
    rank_info: RankInfo,
    store: Store | None,
    num_workers: int,
    backend: str,
    timeout_s: float,
    device: torch.device,
) -> Iterator[Network]:
    """Joins the process group of a launched process for as long as the context lasts.

    Args:
        rank_info: this process.
        store: from open_store; None for a process that was not launched.
        num_workers: N, all workers together.
        backend: "gloo" or "nccl".
        timeout_s: how long a gradient collective may take; others wait for hours.
        device: where this process computes.
    """
    ledger = Ledger()
    if store is None:
        yield _network(ledger, num_workers, None, None)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    shared_store: Any = store
    timeout = timedelta(seconds=timeout_s)
    try:
        dist.init_process_group(
            backend,
            store=shared_store,
            rank=rank_info.rank,
            world_size=rank_info.world_size,
            timeout=_PATIENCE,
            device_id=device if backend == "nccl" else None,
        )
        others = open_sockets()
        # Over gloo each collective is timed from its beginning to its end, and joining is not.
        gradient_group = _new_group(timeout if backend == "nccl" else _PATIENCE)
        sockets = open_sockets() - others
        other_group = _new_group(_PATIENCE)
    except RuntimeError as error:
        raise CollectiveError(f"joining the others: {error}") from error
    try:
        yield _network(ledger, num_workers, gradient_group, other_group, timeout, sockets)
    except CollectiveError:
        # Leaving a group in which a process is missing may take forever.
        raise
    except BaseException:
        dist.destroy_process_group()
        raise
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
    timeout: timedelta | None = None,
    gradient_sockets: frozenset[str] = frozenset(),
) -> Network:
    return Network(
        ledger,
        Collectives(ledger, Purpose.GRADIENT, num_workers, gradient_group, timeout),
        Collectives(ledger, Purpose.EVALUATION, num_workers, other_group),
        Collectives(ledger, Purpose.BOOKKEEPING, num_workers, other_group),
        gradient_sockets,
    )

"""The key-value store that all launched processes share."""

import errno
import logging
import os
from datetime import timedelta
from typing import Any, Protocol

from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from compsgd.comm.group.hosted_store import host_store
from compsgd.comm.group.rank_info import RankInfo
from compsgd.errors import PeerError

log = logging.getLogger("compsgd")

# A launcher's store is there before the processes are; rank 0 may take its time to start.
_LAUNCHERS_TIMEOUT_S = 5.0
_TIMEOUT_S = 300.0


class StoreError(PeerError):
    """There is no store: a process can do nothing, and nobody needs to be told."""


class Store(Protocol):
    """What is used here of a torch.distributed.Store. One client is for one thread."""

    def add(self, key: str, by: int, /) -> int: ...
    def check(self, keys: list[str], /) -> bool: ...
    def clone(self) -> "Store": ...
    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...
    def get(self, key: str, /) -> bytes: ...
    def set(self, key: str, value: str, /) -> None: ...


def open_store(rank_info: RankInfo) -> Store:
    """The store of this attempt. Each has keys of its own: gloo cannot connect by those of the one
    before.

    Raises:
        StoreError: it cannot be reached.
    """
    is_launchers = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    timeout = timedelta(seconds=_LAUNCHERS_TIMEOUT_S if is_launchers else _TIMEOUT_S)
    try:
        hosted = None if is_launchers or rank_info.rank else _host(rank_info, timeout)
        store = hosted or _found(rank_info, timeout)
    except RuntimeError as error:
        host = "the launcher is gone" if is_launchers else "rank 0 cannot be reached"
        raise StoreError(
            f"{host}: no store at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        ) from error
    opened: Store = PrefixStore(f"compsgd attempt {rank_info.attempt}", store)
    return opened


def _host(rank_info: RankInfo, timeout: timedelta) -> Any:
    """Rank 0's store, for the address by which the others know it; None if that is a name that
    others give to this machine: torch then listens on all of its own."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return host_store(address, port, rank_info.world_size, timeout)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise RuntimeError(str(error)) from error
        log.warning("%s is no address of this machine: the store listens on all of them", address)
        return None


def _found(rank_info: RankInfo, timeout: timedelta) -> Any:
    found = rendezvous("env://", rank_info.rank, rank_info.world_size, timeout=timeout)
    return next(iter(found))[0]

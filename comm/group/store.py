"""The key-value store that all launched processes share."""

import os
from datetime import timedelta
from typing import Protocol

from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from compsgd.comm.group.rank_info import RankInfo
from compsgd.errors import PeerError

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
        found = rendezvous("env://", rank_info.rank, rank_info.world_size, timeout=timeout)
        store, _, _ = next(iter(found))
    except RuntimeError as error:
        host = "the launcher is gone" if is_launchers else "rank 0 cannot be reached"
        raise StoreError(
            f"{host}: no store at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        ) from error
    opened: Store = PrefixStore(f"compsgd attempt {rank_info.attempt}", store)
    return opened

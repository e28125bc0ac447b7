"""The key-value store that all launched processes share.

Whoever reaches its port can write into it, so what it says is taken for nothing but a number or a
mark, and what cannot be one counts for nothing.
"""

import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from compsgd.comm.group.hosted_store import host_store
from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.group.worker_thread import WorkerThread
from compsgd.internal_errors import StoreError

log = logging.getLogger("compsgd")

# A launcher's store is there before the processes are; rank 0 may take its time to start.
_LAUNCHERS_TIMEOUT_S = 5.0
_TIMEOUT_S = 300.0
_MOST_DIGITS = 15

Answer = TypeVar("Answer")


class StoreSilentError(StoreError):
    """The store is still connected, and does not answer."""


class Store(Protocol):
    """What is used here of a torch.distributed.Store. One client is for one thread."""

    def check(self, keys: list[str], /) -> bool: ...
    def clone(self) -> "Store": ...
    def get(self, key: str, /) -> bytes: ...
    def set(self, key: str, value: str, /) -> None: ...


class BoundedStore:
    """A client of a store of which no call takes longer than a limit. Torch's own has none: where a
    cable is cut, nobody resets the connection, and a call waits for as long as it stays cut.

    Calls are made on a thread of its own; after the first that is not answered in time all others
    fail at once.
    """

    def __init__(self, store: Store, limit_s: float) -> None:
        """
        Args:
            store: a client of it; this takes another one.
            limit_s: how long a call may take.
        """
        self._store = store.clone()
        self._limit_s = limit_s
        self._thread = WorkerThread("store")
        self._is_silent = False

    def set(self, key: str, value: str = "") -> None:
        """
        Raises:
            StoreSilentError: no answer in time.
            RuntimeError: the store is gone.
        """
        self._call(lambda: self._store.set(key, value))

    def has(self, key: str) -> bool:
        """Raises as `set`."""
        return self._call(lambda: self._store.check([key]))

    def number(self, key: str) -> int | None:
        """The number that was set; None where nothing was, or what is no number. Raises as
        `set`."""
        return self._call(lambda: self._read(key))

    def _read(self, key: str) -> int | None:
        return as_number(self._store.get(key)) if self._store.check([key]) else None

    def _call(self, call: Callable[[], Answer]) -> Answer:
        answer: Future[Answer] = Future()
        if not self._is_silent:
            self._thread.submit(lambda: _answer(answer, call))
            try:
                return answer.result(self._limit_s)
            except TimeoutError:
                if answer.done():
                    raise
                self._is_silent = True
        raise StoreSilentError(f"the store has not answered for {self._limit_s:g} s")


def _answer(answer: "Future[Answer]", call: Callable[[], Answer]) -> None:
    try:
        answer.set_result(call())
    except Exception as error:
        answer.set_exception(error)


def as_number(value: bytes) -> int | None:
    """What was set as a number; None for anything else."""
    is_number = value.isdigit() and len(value) <= _MOST_DIGITS
    return int(value) if is_number else None


def is_launchers_store() -> bool:
    """Whether a launcher hosts the store; otherwise it is rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def open_store(rank_info: RankInfo) -> Store:
    """The store of this attempt. Each has keys of its own: gloo cannot connect by those of the one
    before.

    Raises:
        StoreError: it cannot be reached.
    """
    is_launchers = is_launchers_store()
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

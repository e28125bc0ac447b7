"""What an intruder does to the ports of a run; `intruders.py` sets it on them.

python scripts/robustness/intrusions.py KIND ADDRESS CANARY COUNT PORT... prints what came of it as
JSON.
"""

import base64
import contextlib
import json
import os
import pickle
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

CONNECT_S = 2.0
# As many half-open connections at a time as stay below what a process may have open here.
HELD_AT_MOST = 400
# How a client of torch's store begins: it says who it is. What follows has a kind and lengths.
GREETING = struct.pack("<BI", 0, 0x3C85F7CE)
PING = struct.pack("<BI", 13, 77)
ANSWER_S = 0.5
NUM_REQUESTS = 20
# What is announced and never comes, or cannot be.
LENGTHS = (0, 1, 255, 2**31, 2**32 + 1, 2**63, 2**64 - 1)
STORE_TIMEOUT = timedelta(seconds=2)
# Our own keys, as anybody can read them in our source.
OUR_KEYS = ("stop after round", "urgent calls", "routine calls", "joined: 0", "left: 0", "left: 1",
            "failed: 0", "failed: 1")  # fmt: skip
FORGERIES = ("", "garbage", "1", "-1", str(10**30), "\0" * 64)


@dataclass
class Intruder:
    """
    Attributes:
        address: of the machine that is attacked.
        ports: on which something listens there.
        canary: a file that is there as soon as a pickle of ours was read.
        seen: how many connections came to what.
    """

    address: str
    ports: Sequence[int]
    canary: Path
    draw: random.Random
    seen: Counter[str] = field(default_factory=Counter)

    def garbage(self) -> None:
        """Any bytes, or what begins like a client of the store and goes on with any."""
        with self._connected() as connection:
            if connection is not None:
                connection.sendall(self._bytes())

    def half_open(self) -> None:
        """Many connections that say nothing, or half a word, and stay."""
        with contextlib.ExitStack() as stack:
            for _ in range(HELD_AT_MOST):
                connection = stack.enter_context(self._connected())
                if connection is not None:
                    connection.sendall(GREETING[: self.draw.randrange(len(GREETING))])

    def forged_keys(self) -> None:
        """Other values under the keys that are there, and under those that a run may look for."""
        with self._store() as store:
            if store is None:
                return
            there = store.list_keys()
            folders = {key.rpartition("/")[0] for key in there} | {""}
            ours = [f"{folder}/{key}" if folder else key for folder in folders for key in OUR_KEYS]
            for key in self.draw.sample(there + ours, min(8, len(there) + len(ours))):
                store.set(key, self.draw.choice(FORGERIES))

    def pickles(self) -> None:
        """A pickle that makes the canary, where torch's elastic rendezvous keeps its state."""
        with self._store() as store:
            if store is None:
                return
            code = base64.b64encode(pickle.dumps(_Code(self.canary)))
            found = [key for key in store.list_keys() if "torch.rendezvous" in key]
            for key in found or ["torch.rendezvous.none"]:
                store.set(key, code)

    @contextlib.contextmanager
    def _connected(self, port: int | None = None):
        """To any of the ports, if none is given."""
        try:
            port = port or self.draw.choice(self.ports)
            connection = socket.create_connection((self.address, port), CONNECT_S)
        except OSError:
            self.seen["refused"] += 1
            yield None
            return
        self.seen["accepted"] += 1
        # Who closes at once on what it does not like does well.
        with connection, contextlib.suppress(OSError):
            yield connection

    @contextlib.contextmanager
    def _store(self):
        """A client of the store, if one of the ports is a store's."""
        import torch.distributed as dist

        port = self._find_store()
        store = None
        with contextlib.suppress(RuntimeError):
            if port is not None:
                store = dist.TCPStore(
                    self.address, port, is_master=False, timeout=STORE_TIMEOUT,
                    wait_for_workers=False,
                )  # fmt: skip
                self.seen["let into the store"] += 1
        # It may go while it is written into.
        with contextlib.suppress(RuntimeError):
            yield store

    def _find_store(self) -> int | None:
        """The one that answers a ping as torch's store does, tried one after the other."""
        for port in self.ports:
            with self._connected(port) as connection:
                if connection is not None and is_store(connection):
                    return port
        return None

    def _bytes(self) -> bytes:
        if self.draw.random() < 0.5:
            return self.draw.randbytes(self.draw.randrange(1, 4096))
        request = struct.pack("<BQ", self.draw.randrange(NUM_REQUESTS), self.draw.choice(LENGTHS))
        return GREETING + request + self.draw.randbytes(self.draw.randrange(64))


def is_store(connection: socket.socket) -> bool:
    connection.settimeout(ANSWER_S)
    with contextlib.suppress(OSError):
        connection.sendall(GREETING + PING)
        return connection.recv(4) == PING[1:]
    return False


class _Code:
    """Unpickled, it is a call."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self._canary}",)


KINDS: dict[str, Callable[[Intruder], None]] = {
    "garbage": Intruder.garbage,
    "half-open": Intruder.half_open,
    "forged keys": Intruder.forged_keys,
    "pickles": Intruder.pickles,
}


def main(kind: str, address: str, canary: str, count: str, *ports: str) -> None:
    intruder = Intruder(address, [int(port) for port in ports], Path(canary), random.Random(kind))
    while intruder.seen["accepted"] + intruder.seen["refused"] < int(count):
        KINDS[kind](intruder)
    print(json.dumps(intruder.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])

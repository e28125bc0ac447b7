"""What the kernel counted: bytes through this process's own TCP sockets (Linux, TCP_INFO)."""

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from compsgd.comm.traffic.ledger import NOTHING, Flow

_FDS = Path("/proc/self/fd")
# struct tcp_info in linux/tcp.h: tcpi_unacked, tcpi_bytes_acked and tcpi_bytes_received.
_UNACKED = struct.Struct("@24xI")
_BYTES = struct.Struct("@120xQQ")
_PATIENCE_S = 2.0


def can_count() -> bool:
    return sys.platform == "linux" and _FDS.is_dir()


def open_sockets() -> frozenset[str]:
    """The TCP sockets of this process, by the names the kernel gives them."""
    return frozenset(name for name, _ in _tcp_infos()) if can_count() else frozenset()


def count_bytes(sockets: frozenset[str]) -> Flow:
    """Bytes that went through these sockets since they were opened, retransmissions left out.

    What was sent counts once the other side has acknowledged it, so this waits until nothing is
    under way.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        infos = [info for name, info in _tcp_infos() if name in sockets]
        if time.monotonic() > deadline or not any(_UNACKED.unpack_from(i)[0] for i in infos):
            return sum((Flow(*_BYTES.unpack_from(info)) for info in infos), NOTHING)
        time.sleep(0.001)


def _tcp_infos() -> Iterator[tuple[str, bytes]]:
    for entry in list(_FDS.iterdir()):
        # A descriptor may be closed, or never have been a socket.
        with suppress(OSError):
            name = str(entry.readlink())
            if not name.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                if one.type == socket.SOCK_STREAM and one.family in _INTERNET:
                    yield name, one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)


_INTERNET = (socket.AF_INET, socket.AF_INET6)

"""Real links on one machine: network namespaces on a bridge, each with a shaped veth pair.

Needs Linux, root, and the commands ip and tc.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator

INTERFACE = "eth0"
# Names of links have 15 letters at most.
_RUN = f"csgd{os.getpid()}"
_BRIDGE = f"{_RUN}b"


@contextlib.contextmanager
def shaped_namespaces(count: int, rate: str) -> Iterator[list[str]]:
    """Namespaces whose processes reach each other at `rate` (as tc writes it: 1gbit, 100mbit).

    Yields:
        their names; namespace i has the address `address(i)` on the interface INTERFACE.

    Raises:
        RuntimeError: a command failed.
    """
    names = [f"{_RUN}-{i}" for i in range(count)]
    try:
        run("ip", "link", "add", _BRIDGE, "type", "bridge")
        run("ip", "link", "set", _BRIDGE, "up")
        for i, name in enumerate(names):
            _add(name, outer(i), address(i), rate)
        yield names
    finally:
        for i, name in enumerate(names):
            _try("ip", "link", "delete", outer(i))
            _try("ip", "netns", "delete", name)
        _try("ip", "link", "delete", _BRIDGE)


def address(i: int) -> str:
    return f"10.213.0.{i + 1}"


def outer(i: int) -> str:
    """The end of namespace i's pair that is on the bridge."""
    return f"{_RUN}v{i}"


def _add(name: str, end: str, address: str, rate: str) -> None:
    inside = ("ip", "-n", name)
    run("ip", "netns", "add", name)
    run("ip", "link", "add", end, "type", "veth", "peer", "name", INTERFACE, "netns", name)
    run("ip", "link", "set", end, "master", _BRIDGE, "up")
    run(*inside, "addr", "add", f"{address}/24", "dev", INTERFACE)
    run(*inside, "link", "set", INTERFACE, "up")
    run(*inside, "link", "set", "lo", "up")
    shape = ("root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
    run("tc", "qdisc", "add", "dev", end, *shape)
    run("tc", "-n", name, "qdisc", "add", "dev", INTERFACE, *shape)


def _try(*command: str) -> None:
    with contextlib.suppress(RuntimeError):
        run(*command)


def run(*command: str) -> None:
    """Raises RuntimeError, with what it says, if the command fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")

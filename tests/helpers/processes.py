"""Real processes for tests: on a free port, with a time limit, never left behind."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compsgd.comm.group.hosted_store import LOOPBACK, host_store

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parents[1]


@dataclass(frozen=True)
class Finished:
    """What became of a process, or of a command."""

    exit_code: int
    stdout: str
    stderr: str


def run_ranks(
    world_size: int, script: Path, *args: str, num_groups: int = 1, timeout_s: float = 120
) -> list[Finished]:
    """Runs `python script args...` as world_size ranks with torchrun's environment variables.

    As under torchrun the store is not a rank's own, so that no rank can leave too early. A script
    that joins `num_groups` process groups one after the other finds a port for each in
    STORE_PORTS.
    """
    with started_ranks(world_size, script, *args, num_groups=num_groups) as processes:
        return [finish(process, timeout_s) for process in processes]


@contextlib.contextmanager
def started_ranks(
    world_size: int,
    script: Path,
    *args: str,
    num_groups: int = 1,
    ranks_a_machine: int | None = None,
) -> "Iterator[list[subprocess.Popen[str]]]":
    """The processes of run_ranks, while they run; none outlives the context.

    They are told that so many of them share a machine; None: all of them.
    """
    local_world_size = ranks_a_machine or world_size
    stores = [host_store() for _ in range(num_groups)]
    variables = {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(stores[0].port),
        "STORE_PORTS": " ".join(str(store.port) for store in stores),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    processes = [
        _start(
            [sys.executable, str(script), *args],
            variables | {"RANK": str(rank), "LOCAL_RANK": str(rank % local_world_size)},
        )
        for rank in range(world_size)
    ]
    with _ended(processes):
        yield processes


@contextlib.contextmanager
def started_command(*command: str) -> "Iterator[subprocess.Popen[str]]":
    """One command while it runs; nothing that it starts outlives the context."""
    process = _start(list(command), {})
    with _ended([process]):
        yield process


def run_command(*command: str, timeout_s: float = 120, cwd: Path = ROOT) -> Finished:
    """Runs one command, and all that it starts, to its end."""
    process = _start(list(command), {}, cwd)
    with _ended([process]):
        return finish(process, timeout_s)


def _start(
    command: list[str], variables: dict[str, str], cwd: Path = ROOT
) -> "subprocess.Popen[str]":
    # A session of its own, so that everything it starts can be ended with it.
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]", timeout_s: float) -> Finished:
    """Waits for the end of a process."""
    stdout, stderr = process.communicate(timeout=timeout_s)
    return Finished(process.returncode, stdout, stderr)


@contextlib.contextmanager
def _ended(processes: "list[subprocess.Popen[str]]"):
    """Nothing outlives the context, however it ends."""
    try:
        yield
    finally:
        for process in processes:
            # torchrun's processes have sessions of their own: it ends them itself, if asked.
            if process.poll() is None:
                process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

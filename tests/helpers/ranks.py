"""Tests that run on every rank of a process group: `@on_ranks(2, 4)`.

The processes live as long as the session, and a test that needs W ranks gets the first W of them,
with a default group of its own over gloo. After a test that fails or hangs they are started anew.
"""

import faulthandler
import gc
import importlib
import inspect
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest
import torch
import torch.distributed as dist

from compsgd.comm.group.hosted_store import LOOPBACK, host_store

TIMEOUT_S = 120.0
# Where one rank has failed, the others may fail for reasons of their own, or hang.
GRACE_S = 2.0


@dataclass(frozen=True)
class Call:
    """A function that every rank calls, by name: ranks import its module.

    Attributes:
        group: sets the keys of its process group apart.
    """

    group: str
    world_size: int
    module: str
    function: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What became of a call on one rank.

    Attributes:
        value: what the function has returned.
        failure: why it has not; "" if it has.
    """

    value: Any = None
    failure: str = ""


def on_ranks(*world_sizes: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a test, which then runs on every rank, once for each world size.

    Its arguments are pickled. A fixture such as tmp_path is the same for all ranks.
    """

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        def test(rank_pool: "RankPool", world_size: int, **arguments: Any) -> None:
            __tracebackhide__ = True
            rank_pool.call(test, world_size, **arguments)

        test.__name__, test.__qualname__ = body.__name__, body.__qualname__
        test.__module__, test.__doc__ = body.__module__, body.__doc__
        own = inspect.signature(test).parameters
        shown = [own["rank_pool"], own["world_size"], *inspect.signature(body).parameters.values()]
        test.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        test.body = body  # type: ignore[attr-defined]
        return pytest.mark.parametrize("world_size", world_sizes, ids="W{}".format)(test)

    return decorate


class RankPool:
    """Processes that call functions together; started when they are needed."""

    def __init__(self) -> None:
        self._ranks: list[_Rank] = []
        self._store: dist.TCPStore | None = None
        self._num_calls = 0

    def __enter__(self) -> "RankPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self,
        function: Callable[..., Any],
        world_size: int,
        timeout_s: float = TIMEOUT_S,
        **arguments: Any,
    ) -> list[Any]:
        """Calls a function of a module on every rank.

        Returns:
            by rank, what it has returned.

        Raises:
            AssertionError: it failed somewhere, or took too long, or wrote to stderr.
        """
        __tracebackhide__ = True
        self._num_calls += 1
        call = Call(
            f"call {self._num_calls}",
            world_size,
            function.__module__,
            function.__qualname__,
            arguments,
        )
        try:
            ranks = self._started(world_size)
            values = _ask(ranks, call, timeout_s)
            # Nobody leaves the group while others are still in it.
            _ask(ranks, None, timeout_s)
        except BaseException:
            self.close()
            raise
        return values

    def close(self) -> None:
        """Ends all processes, whatever they do."""
        ranks, self._ranks, self._store = self._ranks, [], None
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            rank.release()

    def _started(self, world_size: int) -> "list[_Rank]":
        if self._store is None:
            self._store = host_store()
        while len(self._ranks) < world_size:
            self._ranks.append(_Rank(len(self._ranks), self._store.port))
        return self._ranks[:world_size]


class _Rank:
    """A rank's process, as seen from the test."""

    def __init__(self, rank: int, port: int) -> None:
        self.rank = rank
        self.connection, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (release closes it)
        variables = {
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "error",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        descriptor = theirs.fileno()
        # A session of its own, so that everything that it starts can be ended with it.
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import ranks; ranks.serve()",
                *map(str, (rank, port, descriptor)),
            ],
            env=os.environ | variables,
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
        )
        theirs.close()

    def take_answer(self) -> Answer:
        try:
            answer: Answer = self.connection.recv()
        except EOFError:
            self.process.wait()
            return Answer(failure=f"it ended with exit code {self.process.returncode}\n")
        return answer

    def stack(self) -> str:
        """Where a process that hangs is."""
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        return "it hangs\n"

    def errors(self) -> str:
        """What it has written to stderr since the start."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def kill(self) -> None:
        # It has not been waited for: nobody else can have its number.
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def release(self) -> None:
        self.process.wait()
        self.connection.close()
        self._stderr.close()


def _ask(ranks: list[_Rank], message: Call | None, timeout_s: float) -> list[Any]:
    """Every rank's answer to the same message.

    Raises:
        AssertionError: one fails, or does not answer, or writes to stderr.
    """
    __tracebackhide__ = True
    for rank in ranks:
        rank.connection.send(message)
    answers = _answers(ranks, timeout_s)
    failures = {rank.rank: answers[rank.rank].failure + rank.errors() for rank in ranks}
    if any(failures.values()):
        raise AssertionError(
            "\n".join(f"rank {rank}: {failure}" for rank, failure in failures.items() if failure)
        )
    return [answers[rank.rank].value for rank in ranks]


def _answers(ranks: list[_Rank], timeout_s: float) -> dict[int, Answer]:
    """By rank, in the order in which they come."""
    waiting = {rank.connection: rank for rank in ranks}
    answers: dict[int, Answer] = {}
    deadline = time.monotonic() + timeout_s
    while waiting and (ready := _ready(list(waiting), deadline)):
        for connection in ready:
            rank = waiting.pop(connection)
            answers[rank.rank] = answer = rank.take_answer()
            if answer.failure:
                deadline = min(deadline, time.monotonic() + GRACE_S)
    late = {rank.rank: Answer(failure=rank.stack()) for rank in waiting.values()}
    return answers | late


def _ready(connections: list[Connection], deadline: float) -> list[Any]:
    return wait(connections, max(0.0, deadline - time.monotonic()))


# In a rank.


def serve() -> None:
    """Does one call after another, until the test process is gone."""
    torch.set_num_threads(1)
    faulthandler.register(signal.SIGUSR1)
    rank, port, descriptor = map(int, sys.argv[1:])
    connection = Connection(descriptor)
    calls: queue.Queue[Call | None] = queue.Queue()
    threading.Thread(target=_receive, args=(connection, calls), daemon=True).start()
    store = dist.TCPStore(LOOPBACK, port, is_master=False, wait_for_workers=False)
    while True:
        call = calls.get()
        try:
            value = _leave() if call is None else _call(call, rank, store)
            connection.send(Answer(value))
        # pytest's own failures are no Exceptions.
        except BaseException:
            connection.send(Answer(failure=traceback.format_exc()))


def _receive(connection: Connection, calls: "queue.Queue[Call | None]") -> None:
    """Ends the process together with the test process, whatever it does then."""
    try:
        while True:
            calls.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)


def _call(call: Call, rank: int, store: dist.Store) -> Any:
    group_store = dist.PrefixStore(call.group, store)
    dist.init_process_group("gloo", store=group_store, rank=rank, world_size=call.world_size)
    function = getattr(importlib.import_module(call.module), call.function)
    return getattr(function, "body", function)(**call.arguments)


def _leave() -> None:
    dist.destroy_process_group()
    # Groups and threads that the test has left behind go now, and not in another test.
    gc.collect()

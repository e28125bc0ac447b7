"""Starting worker processes without torchrun.

All that they have in common is on this machine: a store and connections that listen on the loopback
interface only. What a process gets and gives comes through pipes that only it and this one have.
Nothing is unpickled but what this process has pickled.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from compsgd.comm.group.hosted_store import LOOPBACK, host_store
from compsgd.workers.failures import RunError
from compsgd.workers.launch.endings import Ending, is_final, raise_failure, raise_interruption

_POLL_S = 0.1
# Others that fail for the same reason may say more than the first one.
_SETTLE_S = 1.0
# For what ends in order after SIGTERM, with a checkpoint; then it is killed.
_PATIENCE_S = 30.0
# Whoever has lost its launcher says so within this time, or ends without a word.
_ORPHAN_S = 10.0


def start_processes(num_processes: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Runs function(*args) in so many processes with torchrun's environment, and waits for them.

    None outlives this call, whether it ends by itself, by SIGINT or by SIGTERM; if this process is
    killed, they end within seconds.

    Args:
        num_processes: how many.
        function: importable by name; it and args are pickled.

    Returns:
        by rank what the function has returned, as JSON has it.

    Raises:
        ChildError: one of them failed; the others were ended.
        RunError: a signal ended one of them, or all.
    """
    store = host_store()
    with _Signals() as signals, _Children() as children:
        for rank in range(num_processes):
            environment = _environment(rank, num_processes, store.port)
            children.start(rank, environment, function, args)
        children.wait(signals)
    if signals.first is not None:
        raise_interruption(signals.first, children.endings)
    raise_failure(children.failures, num_processes)
    return [child.value for child in children]


def _environment(rank: int, num_processes: int, port: int) -> dict[str, str]:
    """torchrun's variables, and the interface by which processes connect."""
    loopback = _loopback_interface()
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }


def _loopback_interface() -> str:
    for _, name in socket.if_nameindex():
        if name.startswith("lo"):
            return name
    raise RunError("this machine has no loopback interface, by which processes could connect")


class _Signals:
    """SIGINT and SIGTERM to this process, counted as long as the context lasts.

    Attributes:
        first: the first that came; None so far.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._num_new = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._undo.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def take(self) -> bool:
        """Whether there are new ones since the last time."""
        taken, self._num_new = self._num_new, 0
        return taken > 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.first = number
        self._num_new += 1


class _Child:
    """A started process.

    Attributes:
        value: what its function has returned.
        trace: the traceback of an exception that nobody has caught.
    """

    def __init__(
        self, rank: int, environment: dict[str, str], function: Callable[..., Any], args: Any
    ) -> None:
        self.rank = rank
        self.value: Any = None
        self.trace: str | None = None
        self._report, theirs = multiprocessing.Pipe(duplex=False)
        self.process = SpawnProcess(target=_begin, args=(environment, theirs, function, args))
        try:
            with _postponed_interrupts():
                self.process.start()
        finally:
            theirs.close()

    @property
    def waits_for(self) -> list[Any]:
        return [self.process.sentinel] + ([] if self._report.closed else [self._report])

    def has_ended(self) -> bool:
        # What it has written before its end is to be read behind it.
        has_ended = self.process.exitcode is not None
        self._take_report()
        return has_ended

    def ending(self) -> Ending:
        exit_code = self.process.exitcode
        assert exit_code is not None, "it has ended"
        return Ending(self.rank, exit_code, self.trace)

    def send(self, number: int) -> None:
        # It has not been waited for, so nobody else can have its number.
        if self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def release(self) -> None:
        self.process.join()
        self._report.close()

    def _take_report(self) -> None:
        if self._report.closed or not self._report.poll():
            return
        with contextlib.suppress(EOFError):
            report = json.loads(self._report.recv_bytes())
            self.value, self.trace = report["value"], report["trace"]
        self._report.close()


class _Children:
    """All started processes, none of which outlives the context.

    Attributes:
        failures: how those ended that failed by themselves, the first one first.
    """

    def __init__(self) -> None:
        self.failures: list[Ending] = []
        self._all: list[_Child] = []
        self._running: list[_Child] = []

    def __enter__(self) -> "_Children":
        return self

    def __exit__(self, *_: object) -> None:
        self._send(signal.SIGKILL)
        for child in self._all:
            child.release()

    def __iter__(self) -> Iterator[_Child]:
        return iter(self._all)

    @property
    def endings(self) -> list[Ending]:
        return [child.ending() for child in self._all]

    def start(
        self, rank: int, environment: dict[str, str], function: Callable[..., Any], args: Any
    ) -> None:
        child = _Child(rank, environment, function, args)
        self._all.append(child)
        self._running.append(child)

    def wait(self, signals: _Signals) -> None:
        """Until all have ended by themselves; or, after a signal or a failure, because they are
        told to."""
        while self._watch(_POLL_S):
            if signals.take():
                self._end(signals)
            elif self.failures:
                self._settle(signals)
                self._end(signals)

    def _watch(self, timeout_s: float) -> bool:
        """Notes ends as they come; returns whether anybody is still running."""
        wait([thing for child in self._running for thing in child.waits_for], timeout_s)
        ended = [child for child in self._running if child.has_ended()]
        for child in ended:
            self._running.remove(child)
            if child.ending().is_failure:
                self.failures.append(child.ending())
        return bool(self._running)

    def _settle(self, signals: _Signals) -> None:
        """Gives the others a moment to say what happened, if that is not clear yet."""
        deadline = time.monotonic() + _SETTLE_S
        while not is_final(self.failures) and time.monotonic() < deadline:
            if not self._watch(_POLL_S) or signals.first is not None:
                return

    def _end(self, signals: _Signals) -> None:
        """Asks all to end, again with every further signal; in the end they are not asked."""
        failures = list(self.failures)
        self._send(signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_S
        while self._watch(_POLL_S) and time.monotonic() < deadline:
            if signals.take():
                self._send(signal.SIGTERM)
        self._send(signal.SIGKILL)
        while self._watch(_POLL_S):
            pass
        # What was ended from here has not failed.
        self.failures = failures

    def _send(self, number: int) -> None:
        for child in self._all:
            child.send(number)


@contextlib.contextmanager
def _postponed_interrupts() -> Iterator[None]:
    """A process that is started within hears of Ctrl-C only when it is ready (`_begin`): until then
    it would show a traceback. SIGTERM, which comes from here, ends it before."""
    # What multiprocessing starts beside the first process lets interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In a started process.


def _begin(
    environment: dict[str, str], report: Connection, function: Callable[..., Any], args: Any
) -> None:
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    os.environ.update(environment)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _tell(report, value=function(*args), trace=None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except Exception:
        _tell(report, value=None, trace=traceback.format_exc())
        sys.exit(1)


def _tell(report: Connection, **content: Any) -> None:
    with contextlib.suppress(OSError):
        report.send_bytes(json.dumps(content).encode())


def _end_with_the_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None, "it has started this process"
    launcher.join()
    time.sleep(_ORPHAN_S)
    os._exit(1)

"""Ending well: signals, and processes that are gone.

A thread of each process does this, since a main thread that waits inside a collective runs no
signal handler. A signal lets the round end, and a checkpoint be written, where that is possible;
where a process is gone it ends this one with one line that says which, and when.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

import click

from compsgd.comm.group.collectives import CollectiveError
from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.group.roll_call import RollCall
from compsgd.comm.group.store import (
    BoundedStore,
    Store,
    StoreSilentError,
    is_launchers_store,
)
from compsgd.workers.failures import Interruption, RunError, interrupted_exit_code

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_S = 0.2
# torchrun passes on a Ctrl-C that the terminal has sent to everybody already.
_SECOND_SIGNAL_AFTER_S = 2.0
# What cannot stop in order is ended this long after a signal.
_FORCED_AFTER_S = 4.0
# For a process that leaves while others still do.
_GOODBYE_S = 2.0
# After a failure or a signal, whoever is well answers at once.
_ANSWER_WITHIN_S = 4.0
_ROUTINE_S = 5.0
_CALL = b"\0"


class Watchdog:
    """Watches over a run for as long as the context lasts.

    Attributes:
        stage: where the run is, for the one line of a failure.
        signal_number: the first signal to this process that asks it to end; None so far.
    """

    def __init__(self, rank_info: RankInfo, store: Store | None, timeout_s: float) -> None:
        """
        Args:
            rank_info: this process.
            store: what all processes share; None for a process alone.
            timeout_s: how long a process may be stopped where nobody waits in a gradient
                collective, which has a time limit of its own.
        """
        self.stage = "before the first round"
        self.signal_number: int | None = None
        self._rank_info = rank_info
        self._patience_s = max(timeout_s, _ANSWER_WITHIN_S)
        self._urgent: RollCall | None = None
        self._routine: RollCall | None = None
        if store is not None:
            own = BoundedStore(store, self._patience_s), rank_info.rank, rank_info.world_size
            self._urgent = RollCall(*own, "urgent", _ANSWER_WITHIN_S)
            self._routine = RollCall(*own, "routine", self._patience_s)
        self._is_graceful = False
        self._graceful_until = 0.0
        self._signalled_at: float | None = None
        self._all_here = threading.Event()
        self._closing = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._undo = contextlib.ExitStack()

    @property
    def wants_stop(self) -> bool:
        """Whether a signal has asked this process to end."""
        return self._signalled_at is not None

    @contextlib.contextmanager
    def graceful(self) -> Iterator[None]:
        """Within, a signal only sets `wants_stop`; outside, it raises Interruption."""
        self._is_graceful = True
        try:
            yield
        finally:
            self._graceful_until = time.monotonic()
            self._is_graceful = False

    def explain(self, error: CollectiveError) -> RunError:
        """What to raise instead of a failed collective. Does not return if a process is gone:
        this one then ends with the line that says so."""
        self._all_here.clear()
        self._writer.send(_CALL)
        # The store may be out of reach, too: that shows after as long again.
        self._all_here.wait(self._patience_s + _ANSWER_WITHIN_S + _GOODBYE_S)
        return RunError(
            f"{self.stage}: an exchange failed or took longer than --timeout allows, though every "
            f"process is there ({error})"
        )

    def __enter__(self) -> "Watchdog":
        self._writer.setblocking(False)
        self._undo.callback(self._writer.close)
        self._undo.callback(self._reader.close)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._undo.callback(signal.signal, number, signal.signal(number, self._on_signal))
            before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            self._undo.callback(signal.set_wakeup_fd, before)
        if self._urgent is not None:
            self._urgent.join()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt) and self._urgent is not None:
            # A launcher that misses one process ends the others by signals: whom does it miss?
            self._all_here.wait(_ANSWER_WITHIN_S + _GOODBYE_S)
        self._closing.set()
        self._thread.join(self._patience_s + _GOODBYE_S)
        if self._urgent is not None:
            with contextlib.suppress(RuntimeError):
                self._urgent.leave() if kind is None else self._urgent.fail()
                if error is not None:
                    error.is_told = self._is_told(self._urgent)  # type: ignore[attr-defined]
        self._undo.close()

    def _is_told(self, roll_call: RollCall) -> bool:
        """Whether the first process of this machine fails too, and so will say why; in a moment, if
        at all."""
        first = self._rank_info.machine[0]
        if self._rank_info.rank == first:
            return False
        deadline = time.monotonic() + _GOODBYE_S
        while time.monotonic() < deadline:
            if roll_call.speaks_for_itself(first):
                return True
            time.sleep(0.05)
        return False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """In the main thread; the other one has been told through the socket."""
        if self._signalled_at is None:
            self._signalled_at = time.monotonic()
        self.signal_number = self.signal_number or number
        if not self._is_graceful:
            raise Interruption(number)

    # In the thread.

    def _watch(self) -> None:
        while not self._closing.is_set():
            readable, _, _ = select.select([self._reader], [], [], _POLL_S)
            told = self._reader.recv(64) if readable else b""
            was_signalled = any(number in told for number in _SIGNALS)
            if was_signalled:
                self._note_signal(next(number for number in told if number in _SIGNALS))
            if self._urgent is not None and self._routine is not None:
                self._watch_others(self._urgent, self._routine, was_signalled or _CALL in told)
            self._force()

    def _note_signal(self, number: int) -> None:
        """The first one asks; a later one insists."""
        self.signal_number = self.signal_number or number
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
        if now - self._signalled_at > _SECOND_SIGNAL_AFTER_S:
            self._end_interrupted("", tell=self._speaks_without([]))

    def _watch_others(self, urgent: RollCall, routine: RollCall, calls: bool) -> None:
        try:
            if calls:
                urgent.call()
            routine.call_if_silent_for(_ROUTINE_S)
            for roll_call in (urgent, routine):
                self._hold(roll_call)
        except StoreSilentError as error:
            # Nobody knows who else can still speak.
            if not self._closing.is_set():
                host = "the launcher" if is_launchers_store() else "rank 0"
                self._end(f"{host} cannot be reached: {error}", tell=True)
        except RuntimeError:
            # The store has gone with its host, which without a launcher is rank 0, unless all leave
            # at this moment.
            if not self._closing.wait(_GOODBYE_S):
                absent = [] if is_launchers_store() else [0]
                reason = _gone(absent) if absent else "the launcher is gone"
                self._end(reason, tell=self._speaks_without(absent))

    def _hold(self, roll_call: RollCall) -> None:
        """Answers, and ends this process if others do not."""
        roll_call.answer()
        absent = roll_call.verdict_on_those_who_came()
        failed = [rank for rank in absent or () if roll_call.speaks_for_itself(rank)]
        if failed:
            reason = f"{_named(failed, 'has', 'have')} failed; the reason is printed on its machine"
            is_here = any(rank in self._rank_info.machine for rank in failed)
            self._end(reason, tell=not is_here and self._speaks_without(absent or []))
        elif absent:
            self._end(_gone(absent), tell=self._speaks_without(absent))
        if absent == [] and roll_call is self._urgent:
            self._all_here.set()

    def _speaks_without(self, absent: list[int]) -> bool:
        """Whether this process is the one to speak on its machine: the first of those there that
        are present."""
        present = (rank for rank in self._rank_info.machine if rank not in absent)
        return next(present, None) == self._rank_info.rank

    def _force(self) -> None:
        since = self._signalled_at
        if since is None or self._is_graceful or self._closing.is_set():
            return
        since = max(since, self._graceful_until)
        if time.monotonic() - since > _FORCED_AFTER_S + _ANSWER_WITHIN_S:
            missing = self._never_came()
            others = f", before rank {missing[0]} had come" if missing else ""
            self._end_interrupted(others, tell=self._speaks_without(missing))

    def _never_came(self) -> list[int]:
        if self._urgent is None:
            return []
        with contextlib.suppress(RuntimeError):
            ranks = range(self._rank_info.world_size)
            return [rank for rank in ranks if not self._urgent.has_joined(rank)]
        return []

    def _end_interrupted(self, others: str, tell: bool) -> None:
        self._end(f"interrupted{others}", tell, interrupted_exit_code(self.signal_number))

    def _end(self, reason: str, tell: bool, exit_code: int = 1) -> None:
        if tell:
            click.echo(f"Error: {reason} ({self.stage})", err=True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if self._rank_info.rank == 0 and not is_launchers_store():
            # The store goes with this process, and others are to read in it who is gone.
            time.sleep(_GOODBYE_S)
        os._exit(exit_code)


def _gone(ranks: list[int]) -> str:
    return f"{_named(ranks, 'is', 'are')} gone"


def _named(ranks: list[int], singular: str, plural: str) -> str:
    names = ", ".join(map(str, ranks))
    return f"rank {names} {singular}" if len(ranks) == 1 else f"ranks {names} {plural}"


class StopAgreement:
    """All processes stop after the same round, whichever of them was told to stop.

    Who wants to stop announces it before its part of a round's exchange, which nobody finishes
    before; and everybody looks after the exchange. So what is announced is the round under way, and
    any other number was written by somebody else.
    """

    def __init__(self, store: Store | None, watchdog: Watchdog, timeout_s: float) -> None:
        """
        Args:
            store: what all processes share; None for a process alone.
            watchdog: knows of signals.
            timeout_s: how long the store may take to answer.
        """
        self._store = None if store is None else BoundedStore(store, timeout_s)
        self._watchdog = watchdog
        self._round = 0

    @property
    def wanted_here(self) -> bool:
        return self._watchdog.wants_stop

    @property
    def signal_number(self) -> int | None:
        return self._watchdog.signal_number

    def begin_round(self, position: str) -> None:
        """Args: position: where the run is, for a person."""
        self._watchdog.stage = position

    def begin_exchange(self) -> None:
        self._round += 1
        if self._store is not None and self.wanted_here:
            with _lost_store():
                self._store.set(_STOP_KEY, str(self._round))

    def is_due(self) -> bool:
        """Whether this round was the last one; the same on every process."""
        if self._store is None:
            return self.wanted_here
        with _lost_store():
            return self._store.number(_STOP_KEY) == self._round


_STOP_KEY = "stop after round"


@contextlib.contextmanager
def _lost_store() -> Iterator[None]:
    """A store that has gone with its host is what a failed collective is: the watchdog knows."""
    try:
        yield
    except RuntimeError as error:
        raise CollectiveError(f"the store: {error}") from error

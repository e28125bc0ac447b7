"""Who is still there: a roll call through the store that all processes share.

Gloo only says that some connection is closed, and a process in the middle of sending may not notice
at all. So a thread of each process answers whenever anybody calls the roll, whatever its main
thread is waiting for; who does not answer is gone, or stopped.

Calls are numbered. The newest one's number stands under one key, and each process's answer under
another: the number of the newest call that it has seen.
"""

import time

from compsgd.comm.group.store import BoundedStore

# No run calls as often; a number further ahead was set by somebody else.
_MOST_CALLS = 1 << 32


class RollCall:
    """One process's part. A store's client is for one thread, and so is this."""

    def __init__(
        self, store: BoundedStore, rank: int, world_size: int, name: str, answer_within_s: float
    ) -> None:
        """
        Args:
            store: shared by all processes.
            rank: this process.
            world_size: how many there are.
            name: tells this roll from others in the same store.
            answer_within_s: how long everybody has to answer.
        """
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._key = f"{name} call"
        self._answer_within_s = answer_within_s
        self._answered = 0
        self._answered_at = time.monotonic()
        self._is_open = False

    def call(self) -> None:
        """Asks everybody to answer."""
        self._store.set(self._key, str(max(self._newest(), self._answered) + 1))

    def call_if_silent_for(self, seconds: float) -> None:
        """Asks if nobody has for so long, and all have answered then."""
        if not self._is_open and time.monotonic() - self._answered_at > seconds:
            self.call()

    def answer(self) -> None:
        """Answers the newest call, if it has not yet."""
        newest = self._newest()
        if newest > self._answered:
            self._store.set(self._answer_key(self._rank), str(newest))
            self._answered = newest
            self._answered_at = time.monotonic()
            self._is_open = True
        elif newest < self._answered:
            # Somebody has called at the same moment as another one, or writes what is no call.
            self._store.set(self._key, str(self._answered))

    def verdict(self) -> list[int] | None:
        """The ranks that have not answered the newest call, once; None while they still may, and
        where nobody has called."""
        if not self._is_open:
            return None
        absent = [rank for rank in range(self._world_size) if not self._is_here(rank)]
        if absent and time.monotonic() - self._answered_at < self._answer_within_s:
            return None
        self._is_open = False
        return absent

    def join(self) -> None:
        """This process answers from now on."""
        self._store.set(f"joined: {self._rank}")

    def has_joined(self, rank: int) -> bool:
        return self._store.has(f"joined: {rank}")

    def verdict_on_those_who_came(self) -> list[int] | None:
        """The same without those who never joined: they may still be starting."""
        absent = self.verdict()
        return None if absent is None else [rank for rank in absent if self.has_joined(rank)]

    def leave(self) -> None:
        """This process has come to its end, and will not answer any more."""
        self._store.set(f"left: {self._rank}")

    def fail(self) -> None:
        """This process ends with an error that it tells itself."""
        self._store.set(f"failed: {self._rank}")

    def speaks_for_itself(self, rank: int) -> bool:
        return self._store.has(f"failed: {rank}")

    def _newest(self) -> int:
        """The number of the newest call; 0 where there is none, or what cannot be one."""
        number = self._store.number(self._key)
        return number if number is not None and number <= _MOST_CALLS else 0

    def _is_here(self, rank: int) -> bool:
        answered = self._store.number(self._answer_key(rank))
        return (answered or 0) >= self._answered or self._store.has(f"left: {rank}")

    def _answer_key(self, rank: int) -> str:
        return f"{self._key}: answer of {rank}"

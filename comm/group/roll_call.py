"""Who is still there: a roll call through the store that all processes share.

Gloo only says that some connection is closed, and a process in the middle of sending may not notice
at all. So a thread of each process answers whenever anybody calls the roll, whatever its main
thread is waiting for; who does not answer is gone, or stopped.
"""

import time

from compsgd.comm.group.store import Store


class RollCall:
    """One process's part. A store's client is for one thread, and so is this."""

    def __init__(
        self, store: Store, rank: int, world_size: int, name: str, answer_within_s: float
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
        self._name = name
        self._answer_within_s = answer_within_s
        self._answered = 0
        self._answered_at = time.monotonic()
        self._is_open = False

    def call(self) -> None:
        """Asks everybody to answer."""
        self._store.add(f"{self._name} calls", 1)

    def call_if_silent_for(self, seconds: float) -> None:
        """Asks if nobody has for so long, and all have answered then."""
        if not self._is_open and time.monotonic() - self._answered_at > seconds:
            self.call()

    def answer(self) -> None:
        """Answers if somebody has called."""
        newest = self._store.add(f"{self._name} calls", 0)
        if newest > self._answered:
            for number in range(self._answered + 1, newest + 1):
                self._store.set(self._key(number, self._rank), "")
            self._answered = newest
            self._answered_at = time.monotonic()
            self._is_open = True

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
        self._store.set(f"joined: {self._rank}", "")

    def has_joined(self, rank: int) -> bool:
        return self._store.check([f"joined: {rank}"])

    def verdict_on_those_who_came(self) -> list[int] | None:
        """The same without those who never joined: they may still be starting."""
        absent = self.verdict()
        return None if absent is None else [rank for rank in absent if self.has_joined(rank)]

    def leave(self) -> None:
        """This process has come to its end, and will not answer any more."""
        self._store.set(f"left: {self._rank}", "")

    def fail(self) -> None:
        """This process ends with an error that it tells itself."""
        self._store.set(f"failed: {self._rank}", "")

    def speaks_for_itself(self, rank: int) -> bool:
        return self._store.check([f"failed: {rank}"])

    def _is_here(self, rank: int) -> bool:
        return self._store.check([self._key(self._answered, rank)]) or self._store.check(
            [f"left: {rank}"]
        )

    def _key(self, number: int, rank: int) -> str:
        return f"{self._name} call {number}: {rank}"

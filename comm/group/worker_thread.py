"""A thread that does tasks one after another, for an owner that does not wait for them."""

import queue
import threading
import weakref
from collections.abc import Callable

Task = Callable[[], None]
# A task may wait for a process that is gone; nobody who wants to leave should.
_PATIENCE_S = 5.0


class WorkerThread:
    """Does tasks in the order in which they come, and ends with its owner.

    It is a daemon, but is waited for when Python ends: threads that are in C++ code then abort the
    process.
    """

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
        thread.start()
        # Also called at exit.
        weakref.finalize(self, _end, self._tasks, thread)

    def submit(self, task: Task) -> None:
        """Returns at once. A task must not raise."""
        self._tasks.put(task)


def _work(tasks: "queue.SimpleQueue[Task | None]") -> None:
    while (task := tasks.get()) is not None:
        task()
        # Not to keep what it refers to until the next one comes.
        del task


def _end(tasks: "queue.SimpleQueue[Task | None]", thread: threading.Thread) -> None:
    tasks.put(None)
    if thread is not threading.current_thread():
        thread.join(_PATIENCE_S)

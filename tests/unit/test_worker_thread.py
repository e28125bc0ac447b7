"""A thread for tasks: in order, and gone with its owner."""

import gc
import subprocess
import sys
import threading

from compsgd.comm.group.worker_thread import WorkerThread


def test_tasks_are_done_in_order_on_one_thread():
    done, names, last = [], set(), threading.Event()
    worker = WorkerThread("name")
    for i in range(100):
        worker.submit(lambda i=i: (done.append(i), names.add(threading.current_thread().name)))
    worker.submit(last.set)
    assert last.wait(10)
    assert done == list(range(100))
    assert names == {"name"}


def test_the_thread_ends_with_its_owner():
    worker = WorkerThread("short-lived")
    (thread,) = (one for one in threading.enumerate() if one.name == "short-lived")
    del worker
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_python_waits_for_the_last_task():
    code = (
        "import time; from compsgd.comm.group.worker_thread import WorkerThread; "
        "w = WorkerThread('w'); w.submit(lambda: (time.sleep(0.5), print('done', flush=True)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("done\n", "")

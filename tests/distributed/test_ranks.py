"""The processes that other tests run on: what fails is seen, and nothing is left behind."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import HELPERS
from ranks import RankPool, on_ranks

# As a process that is killed while its ranks hang.
HANGS = """
import pathlib, sys
from ranks import RankPool
from test_ranks import tell_the_pid_and_hang
with RankPool() as pool:
    pool.call(tell_the_pid_and_hang, 2, folder=pathlib.Path(sys.argv[1]))
"""


@on_ranks(1, 2, 4)
def test_every_rank_is_there(tmp_path):
    total = torch.tensor([1.0])
    dist.all_reduce(total)
    assert total == dist.get_world_size()
    assert torch.get_num_threads() == 1
    assert tmp_path.is_dir()


def rank_and_pid(offset):
    return dist.get_rank() + offset, os.getpid()


def test_calls_return_by_rank_and_share_processes(rank_pool):
    first = rank_pool.call(rank_and_pid, 4, offset=10)
    assert [number for number, _ in first] == [10, 11, 12, 13]
    assert rank_pool.call(rank_and_pid, 2, offset=10) == first[:2]


@pytest.fixture(scope="module")
def own_pool():
    with RankPool() as pool:
        yield pool


def fail_on_rank_1():
    if dist.get_rank() == 1:
        pytest.fail("something is wrong")
    dist.barrier()


def warn():
    logging.getLogger("compsgd").warning("careful")


def end():
    os._exit(7)


def hang():
    time.sleep(1000)


@pytest.mark.parametrize(
    ("function", "messages"),
    [
        (fail_on_rank_1, ["rank 1: Traceback", "something is wrong", "rank 0: it hangs"]),
        (warn, ["rank 0: careful", "rank 1: careful"]),
        (end, ["rank 1: it ended with exit code 7"]),
        (hang, ["rank 0: it hangs", "in hang"]),
    ],
)
def test_failures_are_told_and_the_next_call_has_new_processes(own_pool, function, messages):
    before = own_pool.call(rank_and_pid, 2, offset=0)
    with pytest.raises(AssertionError) as raised:
        own_pool.call(function, 2, timeout_s=2)
    for message in messages:
        assert message in str(raised.value)
    assert not any(is_running(pid) for _, pid in before)


def test_a_pool_that_is_closed_leaves_nothing():
    with RankPool() as pool:
        pids = [pid for _, pid in pool.call(rank_and_pid, 2, offset=0)]
        assert all(is_running(pid) for pid in pids)
    assert not any(is_running(pid) for pid in pids)


def tell_the_pid_and_hang(folder):
    folder.joinpath(str(os.getpid())).touch()
    hang()


def test_nothing_outlives_a_test_process_that_is_killed(tmp_path):
    path = os.pathsep.join([str(HELPERS), str(Path(__file__).parent)])
    parent = subprocess.Popen(
        [sys.executable, "-c", HANGS, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}
    )
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(is_running(int(path.name)) for path in tmp_path.iterdir()))


def wait_until(is_so, within_s=100):
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"

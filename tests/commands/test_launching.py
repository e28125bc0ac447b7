"""launch.py without torchrun: real processes, their failures, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT, run_command
from torch.distributed.elastic.multiprocessing.errors import record

from compsgd.workers.failures import RunError
from compsgd.workers.launch.spawning import ChildError, start_processes

QUICK = ["--model", "mlp", "--epochs", "1", "--batch_size", "128", "--threads", "1"]


def launch(*args, cwd=ROOT):
    return run_command(sys.executable, str(ROOT / "launch.py"), *map(str, args), cwd=cwd)


def test_it_starts_a_process_for_each_worker_and_verifies_their_bytes(tmp_path):
    finished = launch(
        "--num_workers", 3, *QUICK, "--verify_bytes", "--log_dir", tmp_path, "--exp_name", "x"
    )
    assert finished.exit_code == 0, finished.stderr
    assert finished.stderr == ""
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["run"]["processes"] == 3
    (cell,) = json.loads((tmp_path / "x" / "result.json").read_text())["cells"]
    assert cell["wire_bytes_sent"] == 3 * 4 * cell["bytes_per_worker_and_step"]
    # Some 25 kB a step: gloo's own messages and TCP's are a few hundred bytes of it.
    assert 1 < cell["kernel_to_ledger"] < 1.1
    assert f"kernel {cell['kernel_bytes_sent']:,}" in finished.stdout


def test_bad_input_is_one_line_before_anything_starts(tmp_path):
    finished = launch("--num_workers", "2", "--num_bits", "9", cwd=tmp_path)
    assert finished.exit_code == 2
    assert (
        finished.stderr == "Error: Invalid value for '--num_bits': 9 is not in the range 1<=x<=8.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_bad_input_that_only_the_processes_see_is_one_line_too(tmp_path):
    args = ["--dataset", "MNIST", "--download", "false", "--dataset_root", tmp_path / "none"]
    finished = launch("--num_workers", "2", *args, cwd=tmp_path)
    assert finished.exit_code == 2
    assert finished.stderr.startswith("Error: MNIST is not complete in")
    assert finished.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_is_one_line_and_exit_code_1(tmp_path):
    args = ["--optimizer", "sgd", "--lr", "1e38", "--strict", "--log_dir", tmp_path]
    finished = launch("--num_workers", "2", *QUICK, *args)
    assert finished.exit_code == 1
    assert "is not finite" in finished.stderr
    assert finished.stderr.count("\n") == 1


@record
def crash_on_rank_1():
    if os.environ["RANK"] == "1":
        raise ZeroDivisionError("a bug")


@record
def die_on_rank_1():
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def test_a_killed_process_is_named():
    with pytest.raises(RunError, match="worker process 1 was ended by SIGKILL"):
        start_processes(2, die_on_rank_1)


def test_sigterm_leaves_no_process_behind(tmp_path):
    args = ["--num_workers", "2", "--epochs", "1000", "--compile", "off", "--log_dir", tmp_path]
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, args)]
    launched = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert "epoch 1" in launched.stdout.readline()
        children = descendants(launched.pid)
        assert len(children) >= 2
        launched.terminate()
        _, stderr = launched.communicate(timeout=60)
    finally:
        launched.kill()
    assert launched.returncode == 1
    assert stderr.splitlines()[-1] == "Error: interrupted"
    # Python's own resource tracker ends once it notices that the others have.
    deadline = time.monotonic() + 20
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, children))


def descendants(pid):
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@record
def exit_with_3():
    sys.exit(3)


def test_a_crash_shows_the_childs_traceback():
    with pytest.raises(ChildError, match="in crash_on_rank_1") as raised:
        start_processes(2, crash_on_rank_1)
    assert "ZeroDivisionError: a bug" in raised.value.trace
    assert raised.value.exit_code == 1


def test_an_exit_code_is_passed_on():
    with pytest.raises(ChildError) as raised:
        start_processes(2, exit_with_3)
    assert raised.value.trace is None
    assert raised.value.exit_code == 3

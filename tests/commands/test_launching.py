"""launch.py without torchrun: real processes, their failures, and nothing left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from listening import descendants, listening
from processes import ROOT, finish, run_command, started_command

from compsgd.workers.failures import RunError
from compsgd.workers.launch.endings import ChildError
from compsgd.workers.launch.spawning import start_processes

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


def crash_on_rank_1():
    if os.environ["RANK"] == "1":
        raise ZeroDivisionError("a bug")


def die_on_rank_1():
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def test_a_killed_process_is_named():
    with pytest.raises(RunError, match="worker process 1 was ended by SIGKILL"):
        start_processes(2, die_on_rank_1)


def abort_but_on_rank_1():
    if os.environ["RANK"] != "1":
        os.abort()
    time.sleep(60)


def test_those_that_are_aborted_are_not_blamed(capfd):
    with pytest.raises(RunError) as raised:
        start_processes(3, abort_but_on_rank_1)
    message = raised.value.format_message()
    assert message.startswith("worker processes 0, 2 were ended by SIGABRT: gloo does so to those")
    assert message.endswith("look first at worker process 1")
    capfd.readouterr()


def rank_and_size(unit):
    return {unit: [int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])]}


def test_what_the_processes_return_comes_back():
    assert start_processes(2, rank_and_size, "x") == [{"x": [0, 2]}, {"x": [1, 2]}]


LONG = ["--num_workers", "2", "--epochs", "1000", "--compile", "off", "--model", "mlp"]


def test_it_listens_on_loopback_only(tmp_path):
    """Its store, gloo's connections, and all that its processes open besides."""
    command = [sys.executable, str(ROOT / "launch.py"), *LONG, "--log_dir", str(tmp_path)]
    with started_command(*command) as launched:
        assert "epoch 1" in launched.stdout.readline()
        found = listening([launched.pid, *descendants(launched.pid)])
    assert len(found) >= 2
    assert {address for address, _ in found} == {"127.0.0.1"}


def test_no_process_outlives_a_launcher_that_is_killed(tmp_path):
    command = [sys.executable, str(ROOT / "launch.py"), *LONG, "--log_dir", str(tmp_path)]
    with started_command(*command) as launched:
        assert "epoch 1" in launched.stdout.readline()
        children = descendants(launched.pid)
        launched.kill()
        stderr = launched.communicate(timeout=60)[1]
        await_end_of(children)
    # Before that torch itself tells of its store.
    assert stderr.splitlines()[-1].startswith("Error: the launcher is gone (")
    assert stderr.count("Error: ") == 1


def test_ctrl_c_while_the_processes_start(tmp_path):
    """A terminal sends it to all of them."""
    command = [sys.executable, str(ROOT / "launch.py"), *LONG, "--log_dir", str(tmp_path)]
    with started_command(*command) as launched:
        while len(started := [pid for pid in descendants(launched.pid) if is_worker(pid)]) < 2:
            assert launched.poll() is None
            time.sleep(0.01)
        os.killpg(launched.pid, signal.SIGINT)
        ended = finish(launched, 60)
        await_end_of(started)
    assert (ended.exit_code, ended.stdout) == (130, "")
    assert ended.stderr == "Error: interrupted\n"


def test_a_host_name_that_nobody_knows(tmp_path):
    """Everything is local: nobody asks for it."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("a host name of its own needs root and unshare")
    inside = 'hostname no-such-host.invalid && exec "$@"'
    command = [sys.executable, str(ROOT / "launch.py"), "--num_workers", "2", *QUICK]
    finished = run_command(
        unshare, "--uts", "sh", "-c", inside, "sh", *command, "--log_dir", str(tmp_path)
    )
    assert (finished.exit_code, finished.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_with_one_line(number, tmp_path):
    args = ["--num_workers", "2", "--epochs", "1000", "--compile", "off", "--log_dir", tmp_path]
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, args)]
    launched = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert "epoch 1" in launched.stdout.readline()
        children = descendants(launched.pid)
        assert len(children) >= 2
        launched.send_signal(number)
        _, stderr = launched.communicate(timeout=60)
    finally:
        launched.kill()
    assert launched.returncode == 128 + number
    (line,) = stderr.splitlines()
    assert line.startswith("Error: interrupted in epoch ")
    await_end_of(children)


def await_end_of(pids):
    # Python's own resource tracker ends once it notices that the others have.
    deadline = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, pids))


def is_worker(pid):
    with contextlib.suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


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

"""What a person at a terminal sees of a run: what it is at, whatever takes long."""

import os
import re
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="terminals of this kind are Unix's")

RUN = [
    sys.executable, "-m", "compsgd", "train", "--model", "mlp", "--epochs", "2", "--batch_size",
    "256", "--num_workers", "2", "--threads", "1", "--exp_name", "x",
]  # fmt: skip


def shown_on_a_terminal(*command, cwd):
    """All that a command writes there."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, cwd=cwd,
        start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 4096):
            shown += chunk
    except OSError:
        pass  # so Linux says that nobody has the terminal open any more
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    return shown.decode()


def test_a_terminal_is_told_what_a_run_is_at(tmp_path):
    shown = shown_on_a_terminal(*RUN, cwd=tmp_path)
    steps = [
        "loading PyTorch ...", "loading digits ...", "compiling the kernels ...",
        "epoch 1/2 round 1/3", "evaluating on the test set", "epoch 2/2",
        "evaluating on the training set", "results: ",
    ]  # fmt: skip
    places = [shown.find(step) for step in steps]
    assert -1 not in places, (places, shown)
    assert places == sorted(places)


def test_a_file_is_not(tmp_path):
    finished = subprocess.run(RUN, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert finished.stderr == ""
    assert not re.search("loading|compiling|evaluating", finished.stdout)

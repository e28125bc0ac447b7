"""What a person at a terminal sees of a run: what it is at, whatever takes long."""

import os
import re
import struct
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="terminals of this kind are Unix's")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

RUN = [
    sys.executable, "-m", "compsgd", "train", "--model", "mlp", "--epochs", "2", "--batch_size",
    "256", "--num_workers", "2", "--threads", "1", "--exp_name", "x",
]  # fmt: skip


def shown_on_a_terminal(*command, cwd, columns=100):
    """All that a command writes there."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
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
        "epoch 1/2, loss ", "evaluating test set", "epoch 2/2", "evaluating training set",
        "results: ",
    ]  # fmt: skip
    places = [shown.find(step) for step in steps]
    assert -1 not in places, (places, shown)
    assert places == sorted(places)


@pytest.mark.parametrize("columns", [40, 80, 100, 160])
def test_the_bar_fits_the_line(columns, tmp_path):
    shown = shown_on_a_terminal(*RUN, cwd=tmp_path, columns=columns)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[?0-9]*[a-zA-Z]", "", shown))
    bars = [line for line in lines if "%" in line and "[" in line and "]" in line]
    assert bars
    # Narrower than what click writes by itself, nothing is added.
    assert max(map(len, bars)) <= max(columns, 60)
    assert any("epoch 2/2" in bar for bar in bars) == (columns >= 80)
    assert any("B/step" in bar for bar in bars) == (columns >= 160)


def test_a_file_is_not(tmp_path):
    finished = subprocess.run(RUN, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert finished.stderr == ""
    assert not re.search("loading|compiling|evaluating", finished.stdout)

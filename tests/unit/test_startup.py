"""Ctrl-C at any moment of a command's start: exit code 130, and no word."""

import configparser
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compsgd.startup import LAUNCHER_VARIABLES, announce_loading, launched_local_rank, launched_rank

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "the command": ["-m", "compsgd", "train", "--help"],
    "launch.py": [str(ROOT / "launch.py"), "--help"],
}
# It says when the first of ours is imported, and then torch: moments that no clock has to meet.
WATCHER = """
import os, signal, sys
class Watcher:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Watcher())
"""


@pytest.mark.parametrize("module", ["torch", "torch.nn", "click", "compsgd.workers.train.run"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_ctrl_c_during_imports(command, module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCHER.format(module=module))
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


WITHIN = """
import os, signal, sys
from compsgd.startup import run_command

def command():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("within", flush=True)
    sys.exit(3)

def load():
    print("before", flush=True)
    return command

try:
    run_command(load)
finally:
    os.kill(os.getpid(), signal.SIGINT)
    print("never", flush=True)
"""


def test_within_it_is_as_usual_and_behind_it_is_silent(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHIN], env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "before\nwithin\n", "")


@pytest.mark.parametrize(
    ("arguments", "rank", "expected"),
    [
        (["compsgd", "train"], None, "loading PyTorch ...\n"),
        (["launch.py"], "0", "loading PyTorch ...\n"),
        (["launch.py"], "1", ""),
        (["compsgd", "train", "--help"], None, ""),
    ],
)
def test_a_terminal_is_told_that_loading_takes_a_while(arguments, rank, expected, monkeypatch):
    for is_terminal in (True, False):
        screen = io.StringIO()
        screen.isatty = lambda is_terminal=is_terminal: is_terminal
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setattr(sys, "argv", arguments)
        if rank is not None:
            for name in LAUNCHER_VARIABLES:
                monkeypatch.setenv(name, rank)
        announce_loading()
        assert screen.getvalue() == (expected if is_terminal else "")


LAUNCHED = {"WORLD_SIZE": "4", "MASTER_ADDR": "x", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (LAUNCHED | {"RANK": "2"}, (2, 2)),
        (LAUNCHED | {"RANK": "2", "LOCAL_RANK": "0"}, (2, 0)),
        (LAUNCHED | {"RANK": "x"}, (0, 0)),
        ({"RANK": "2", "LOCAL_RANK": "1"}, (0, 0)),
        ({}, (0, 0)),
    ],
)
def test_a_rank_is_one_where_a_launcher_has_said_all_of_it(variables, expected, monkeypatch):
    for name in (*LAUNCHER_VARIABLES, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (launched_rank(), launched_local_rank()) == expected


def test_what_is_installed_begins_there():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split()
    assert scripts == ["compsgd", "=", "compsgd.__main__:main"]


def test_the_package_imports_nothing_slow():
    """As anything that is imported before Ctrl-C is taken care of."""
    code = "import sys, compsgd.startup; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"

"""The command `compsgd`: what it lists, and what it takes to list it."""

import os
import subprocess
import sys

import click
import pytest

from compsgd.workers.commands.group import compsgd

SLOW_TO_IMPORT = ("torch", "numpy", "matplotlib", "numba")
LISTED = f"""
import sys
from compsgd.workers.commands.group import compsgd
compsgd.main(["--help"], standalone_mode=False)
print([name for name in {SLOW_TO_IMPORT} if name in sys.modules])
"""


def test_help_imports_nothing_that_takes_long():
    finished = subprocess.run(
        [sys.executable, "-c", LISTED], capture_output=True, text=True, timeout=60
    )
    *help_lines, imported = finished.stdout.splitlines()
    assert imported == "[]", finished.stderr
    names = ["bench", "bytes", "plot", "predict", "report", "train"]
    assert [line.split()[0] for line in help_lines[-6:]] == names


@pytest.mark.parametrize("name", ["bench", "bytes", "plot", "predict", "report", "train"])
def test_every_command_is_there(name):
    command = compsgd.get_command(click.Context(compsgd), name)
    assert isinstance(command, click.Command)
    assert command.help


@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [
        ("compsgd tr", 1, ["train"]),
        ("compsgd train --num_b", 2, ["--num_bits"]),
        ("compsgd train --model vani", 3, ["vanilla_cnn"]),
    ],
)
def test_shells_complete(words, number, expected):
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(number), "_COMPSGD_COMPLETE": "bash_complete"}
    finished = subprocess.run(
        [sys.executable, "-c", "from compsgd.__main__ import main; main()"],
        capture_output=True, text=True, timeout=60, env=os.environ | asked,
    )  # fmt: skip
    assert [line.split(",")[1] for line in finished.stdout.splitlines()] == expected


def test_no_other_command_is_there():
    with pytest.raises(click.UsageError, match="No such command 'tarin'"):
        compsgd.main(["tarin"], standalone_mode=False)

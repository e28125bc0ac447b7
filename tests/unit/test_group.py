"""The command `compsgd`: what it lists, and what it takes to list it."""

import subprocess
import sys

import click
import pytest

from compsgd.workers.commands.group import compsgd

SLOW_TO_IMPORT = ("torch", "numpy", "matplotlib", "sklearn", "numba")
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
    assert [line.split()[0] for line in help_lines[-4:]] == ["bench", "bytes", "plot", "train"]


@pytest.mark.parametrize("name", ["bench", "bytes", "plot", "train"])
def test_every_command_is_there(name):
    command = compsgd.get_command(click.Context(compsgd), name)
    assert isinstance(command, click.Command)
    assert command.help


def test_no_other_command_is_there():
    with pytest.raises(click.UsageError, match="No such command 'tarin'"):
        compsgd.main(["tarin"], standalone_mode=False)

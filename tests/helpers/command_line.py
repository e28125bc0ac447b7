"""Commands run in this process, as a user's shell would see them."""

import runpy
import signal
import sys

import click
import pytest
from click.testing import CliRunner

from compsgd.workers.commands.cli import train
from compsgd.workers.commands.execution import execute


def run(*args, cwd=None, command=train):
    """Runs the command in this process, as a user's shell would see it."""
    runner = CliRunner()

    @click.command()
    def outer():
        execute(command, "compsgd train")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compsgd train", *map(str, args)])
        if cwd is not None:
            patch.chdir(cwd)
        return runner.invoke(outer, [])


def run_script(path, *words):
    """Runs a script in this process, as `python path words...` would: its exit code. What it does
    about Ctrl-C does not last."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        patch.setattr(sys, "argv", [str(path), *words])
        try:
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(path), run_name="__main__")
        finally:
            signal.signal(signal.SIGINT, before)
    return end.value.code or 0

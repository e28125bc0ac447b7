"""Commands run in this process, as a user's shell would see them."""

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

"""The command `compsgd`: a group whose commands are imported when they are called.

torch takes seconds to import, and `compsgd --help` needs none of it.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import click

from compsgd.startup import announce_loading, quiet_interrupts
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.spreading import normalise


class Later(NamedTuple):
    """Where a command is, and what the list of commands says of it."""

    module: str
    name: str
    short_help: str


class LazyGroup(click.Group):
    """A group of commands that are imported when they are called, or asked for their own help."""

    def __init__(self, *args: Any, later: Mapping[str, Later], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.later = later

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.later)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.later:
            return None
        module, name, _ = self.later[cmd_name]
        with quiet_interrupts():
            announce_loading()
            command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.later[name].short_help) for name in self.list_commands(ctx)]
            )


_HERE = "compsgd.workers.commands"
_LATER = {
    "bench": Later(f"{_HERE}.bench_command", "bench", "Time compression, as ratios to one copy."),
    "bytes": Later(f"{_HERE}.byte_table", "byte_table", "What each worker sends in a step."),
    "plot": Later(f"{_HERE}.plot_command", "plot", "Figures from the histories of experiments."),
    "predict": Later(
        f"{_HERE}.predict_command", "predict_command", "What a step would take on a network."
    ),
    "report": Later(f"{_HERE}.report_command", "report", "An experiment as one page of HTML."),
    "train": Later(f"{_HERE}.cli", "train", "Train a model with N workers in one process."),
}


@click.group(cls=LazyGroup, later=_LATER, context_settings={"token_normalize_func": normalise})
@click.version_option(package_name="compsgd")
def compsgd() -> None:
    """Communication-compressed data-parallel training."""


def main() -> NoReturn:
    """The `compsgd` command."""
    execute(compsgd, "compsgd")

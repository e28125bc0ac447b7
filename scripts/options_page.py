"""Writes docs/options.md, docs/commands.md and docs/settings.md from what they are about.

python scripts/options_page.py
"""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import groupby
from pathlib import Path

import click

from compsgd.files import atomic_write
from compsgd.settings import (
    AGGREGATOR_SETTINGS,
    HOOK_SETTINGS,
    LEVEL_SETTINGS,
    VoteSettings,
    setting_field,
)
from compsgd.workers.commands.cli import train
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.group import compsgd
from compsgd.workers.commands.path_option import PathOption, make_folder
from compsgd.workers.commands.spreading import HeadedOption

_OUT = Path(__file__).resolve().parents[1] / "docs"
_OPTIONS_HEAD = """# Options

Of `launch.py` and `compsgd train` alike. (Made by `python scripts/options_page.py` from the options
themselves.)

- Every option is understood with hyphens, too: `--num-bits`.
- True/false options take a value (`--shuffle false`); without one they mean true.
- `--lr 0.003 0.001` and `--range_decay 1.0 0.7` take several values: the run trains once with
  each pair.
- `--config FILE` takes a TOML file of options by their names (`lr = [0.003, 0.001]`), or the
  `config.json` of a run, to repeat it. The command line wins.
- `eval "$(_COMPSGD_COMPLETE=bash_source compsgd)"` lets bash complete commands, options and values
  (`zsh_source`; for fish `_COMPSGD_COMPLETE=fish_source compsgd | source`).

`sgd` and `sign_sgd` ignore the decay, and run once for each learning rate.
"""
_COMMANDS_HEAD = """# Commands

Beside `compsgd train`, whose options have [a page of their own](options.md). (Made by `python
scripts/options_page.py` from the commands themselves.) `compsgd COMMAND --help` says the same.
"""
_SETTINGS_HEAD = """# Settings in code

The keyword arguments of `register_vote_hook` and `VoteState`, of `VoteAggregator`, and of
`CompressedSGDVote` and `CompressedSGD`, which are those of `VoteSettings`, too. (Made by `python
scripts/options_page.py` from the settings themselves.) [Choosing settings](choosing_settings.md)
says which values to take. `help(compsgd.comm.register_vote_hook)` and the
[API reference](reference/compsgd.md) have the arguments that are no settings, as `params`.

| setting | what it does | default | hook | aggregator | optimizers |
|---|---|---|:-:|:-:|:-:|
"""
_NOTES = {
    "Data": """
- `digits` (8 x 8 pixels) comes with compsgd. `MNIST`, `FashionMNIST`, `CIFAR10` and `CIFAR100`
  are torchvision's.
- `folder` holds your images in `train/CLASS` and `test/CLASS`; `MODULE:FACTORY` makes
  [your own](own_model_and_data.md).
- `text` is a UTF-8 file of yours, or a folder whose `*.txt` are read in the order of their names:
  its `validation.txt` is held out, or else the last tenth of the text. `stdlib` is the source code
  of your Python's standard library, up to 4 million characters, the last tenth held out.
- The last batch of an epoch is what is left. A worker without a batch sits out the round.
""",
    "Model": """
- `vanilla_cnn`: one 3 x 3 convolution, dropout, 512 hidden units; 3,217,226 parameters on MNIST.
- `mlp`: two hidden layers of 256 and 128 units. `resnet18`: torchvision's, with first layers for
  small images.
- `gpt`: a decoder-only transformer that predicts the next character; `small` has 64 channels,
  3 layers and 4 heads (about 160,000 parameters), `base` 128 channels and 5 layers (about 1 M).
- `MODULE:FACTORY` makes [your own](own_model_and_data.md).
""",
    "Communication": """
[What goes over the wire](wire.md) explains the exchanges. `nccl` needs a GPU for every process;
neither one GPU nor several have been tried yet.
""",
    "Results": """
[Results and histories](results.md) lists the files. To follow a run elsewhere:
[tracking](tracking.md).
""",
    "Robustness": """
[When something goes wrong](trouble.md) says what is checked by itself.
""",
}
_TABLE = "| option | meaning | default |\n|---|---|---|"


def pages() -> dict[str, str]:
    """In Markdown, by the names of their files."""
    return {
        "options.md": _options_page(),
        "commands.md": _commands_page(),
        "settings.md": _settings_page(),
    }


def _settings_page() -> str:
    clients = (HOOK_SETTINGS, AGGREGATOR_SETTINGS, LEVEL_SETTINGS)
    names = [one.name for one in fields(VoteSettings) if any(one.name in own for own in clients)]
    rows = []
    for name in names:
        marks = " | ".join("yes" if name in own else "-" for own in clients)
        field = setting_field(name)
        said = _in_a_cell(field.metadata["help"])
        rows.append(f"| `{name}` | {said} | `{field.default!r}` | {marks} |\n")
    return _SETTINGS_HEAD + "".join(rows)


def _options_page() -> str:
    options = [one for one in train.params if isinstance(one, HeadedOption) and not one.hidden]
    parts = [_OPTIONS_HEAD]
    for heading, group in groupby(options, key=lambda one: one.heading):
        parts.append("\n".join([f"## {heading}\n\n{_TABLE}", *map(_row, group)]) + "\n")
        parts += [_NOTES[heading].lstrip()] if heading in _NOTES else []
    return "\n".join(parts)


def _commands_page() -> str:
    parts = [_COMMANDS_HEAD]
    for words, command in _commands(click.Context(compsgd, info_name="compsgd"), compsgd):
        if command is not train:
            parts.append(_section(words, command))
    return "\n".join(parts)


def _commands(context: click.Context, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """All below a group, by what is typed for them."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, "it is listed"
        words = f"{context.command_path} {name}"
        if isinstance(command, click.Group):
            yield from _commands(click.Context(command, context, info_name=name), command)
        else:
            yield words, command


def _section(words: str, command: click.Command) -> str:
    arguments = [one.make_metavar(click.Context(command)) for one in command.params
                 if isinstance(one, click.Argument)]  # fmt: skip
    usage = " ".join([words, *arguments, "[OPTIONS]"])
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    said = "\n\n".join(map(_paragraph, inspect.cleandoc(command.help or "").split("\n\n")))
    return f"## {words}\n\n{said}\n\n```\n{usage}\n```\n\n" + "\n".join(
        [_TABLE, *map(_row, options), ""]
    )


def _paragraph(text: str) -> str:
    """Of a help: one that click leaves as it is stands in a block."""
    if text.startswith("\b\n"):
        return f"```\n{text[2:]}\n```"
    return " ".join(text.split())


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    return f"| {names} | {_meaning(option)} | {_default(option)} |"


def _meaning(option: click.Option) -> str:
    said = _in_a_cell(option.help or "")
    if isinstance(option.type, click.Choice):
        names = ", ".join(f"`{name}`" for name in option.type.choices)
        said = f"{said} One of {names}.".strip()
    return said


def _in_a_cell(text: str) -> str:
    """Of a table in Markdown."""
    said = " ".join(text.split())
    for mark in "|*":
        said = said.replace(mark, f"\\{mark}")
    return said


def _default(option: click.Option) -> str:
    if option.required:
        return "must be given"
    said = option.get_help_extra(click.Context(click.Command("any"))).get("default", "")
    said = said.removeprefix("(").removesuffix(")").replace("|", "\\|")
    return {"True": "true", "False": "false"}.get(said, said) or "-"


@click.command()
@click.option("--out", type=PathOption(file_okay=False), default=_OUT, show_default="docs",
              help="Folder of the pages.")  # fmt: skip
def main(out: Path) -> None:
    """Writes the pages of options and commands."""
    make_folder("--out", out)
    for name, page in pages().items():
        with atomic_write(out / name) as file:
            file.write(page.encode())


if __name__ == "__main__":
    execute(main, Path(sys.argv[0]).name)

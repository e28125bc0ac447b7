"""How the commands read their words: several values behind one option, hyphens for underscores; and
how their help lists them."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import click

_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}
_Declared = TypeVar("_Declared", bound=Callable[..., Any] | click.Command)


class HeadedOption(click.Option):
    """An option that stands under a heading of the help.

    Attributes:
        heading: which; those without one come last.
    """

    heading = "Options"


class IntegerRange(click.IntRange):
    """Integers between bounds; a word that is no number is none because of the bounds."""

    name = "integer"


class CountRange(IntegerRange):
    """Integers that may be written as 25M or 1.5B, as the sizes of models are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        written = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB])", str(value), re.IGNORECASE)
        if written:
            number = Decimal(written[1]) * _UNITS[written[2].upper()]
            value = int(number) if number == int(number) else value
        return super().convert(value, param, ctx)


def flag_option(*names: str, default: bool, help: str) -> Callable[[_Declared], _Declared]:
    """A true/false option: it takes a value, and bare it means true."""
    return click.option(
        *names,
        cls=HeadedOption,
        type=bool,
        default=default,
        is_flag=False,
        flag_value=True,
        show_default=True,
        metavar="BOOLEAN",
        help=help,
    )


class SpreadingCommand(click.Command):
    """Accepts `--lr 0.003 0.001`: several values behind one option, as the original scripts do."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        by_heading: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = getattr(parameter, "heading", HeadedOption.heading)
                by_heading.setdefault(heading, []).append(record)
        for heading, records in by_heading.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        repeatable = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for name in parameter.opts
        }
        return super().parse_args(ctx, spread_values(args, repeatable))


def spread_values(args: Sequence[str], repeatable: set[str]) -> list[str]:
    """Repeats the option's name before every further value: --lr 1 2 becomes --lr 1 --lr 2."""
    spread: list[str] = []
    option: str | None = None
    values_seen = 0
    for arg in args:
        if arg.startswith("-") and not _is_number(arg):
            name, has_value, _ = arg.partition("=")
            option = name if normalise(name) in repeatable else None
            values_seen = 1 if has_value else 0
        else:
            if option is not None and values_seen > 0:
                spread.append(option)
            values_seen += 1
        spread.append(arg)
    return spread


def normalise(token: str) -> str:
    """--num-bits is --num_bits; help lists the latter."""
    stem = token.lstrip("-")
    return token[: len(token) - len(stem)] + stem.replace("-", "_")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

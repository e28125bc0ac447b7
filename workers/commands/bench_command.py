"""`compsgd bench`: what compression costs, beside a copy of the gradient."""

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from compsgd.codec.binning import BINNINGS
from compsgd.workers.bench.measurements import MEMORIES, CodecCase, measure_codec, measure_round
from compsgd.workers.bench.timing import machine
from compsgd.workers.commands.path_option import PICTURE, OutputFile, write_json
from compsgd.workers.commands.spreading import IntegerRange, SpreadingCommand, normalise
from compsgd.workers.report.tables import format_table

_SETTINGS = {"token_normalize_func": normalise, "max_content_width": 100}


def _several(
    name: str, kind: Any, default: Sequence[Any], help: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        name, type=kind, multiple=True, default=default, show_default=True, help=help
    )


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for declare in (
        click.option("--json", "json_path", type=OutputFile(), default=None,
                     help="Also write the figures here."),
        click.option("--repeats", type=IntegerRange(min=1), default=9, show_default=True,
                     help="Times each action is timed; the median counts."),
        click.option("--threads", type=IntegerRange(1, 4096), default=1, show_default=True,
                     help="Threads."),
        _several("--compile", click.Choice(("on", "native", "off")), ["on"],
                 "Compiled or eager; or both, as in --compile on off."),
        _several("--num_bits", IntegerRange(1, 8), [1, 3, 8], "Bits of a level."),
    ):  # fmt: skip
        declare(command)
    return command


@click.group(context_settings=_SETTINGS)
def bench() -> None:
    """Time compression, as ratios to one float32 copy measured in the same run."""


@bench.command(cls=SpreadingCommand, context_settings=_SETTINGS)
@_several("--sizes", IntegerRange(min=1), [10**5, 10**6, 10**7, 10**8], "Elements.")
@_common
@_several("--binning", click.Choice(BINNINGS), list(BINNINGS), "Bins of the levels.")
@_several(
    "--zeros",
    click.Choice(("broken", "kept")),
    ["broken", "kept"],
    "Whether zeros are broken, or kept and packed by radix.",
)
@_several(
    "--memory",
    click.Choice(tuple(MEMORIES)),
    ["range"],
    "What a worker keeps: its range alone, or with momentum, error feedback, or both.",
)
@_several("--voters", IntegerRange(min=1), [4, 16], "Ballots to vote on.")
@click.option(
    "--picture", type=PICTURE, default=None, help="Draw the figures here: .png, .pdf or .svg."
)
def codec(picture: Path | None, **values: Any) -> None:
    """Encode a gradient, and vote on N ballots, for every combination of the options.

    \b
    encode    finiteness check, momentum, range, discretise, break zeros, pack
    vote N    check, unpack and add up N ballots, vote, break ties, update
    limit     bytes that must move, over the bytes of a copy
    """
    settings = ("sizes", "num_bits", "binning", "zeros", "compile", "memory")
    cases = [CodecCase(*case) for case in itertools.product(*(values[name] for name in settings))]
    records = _measure(
        cases, lambda case: measure_codec(case, values["voters"], values["repeats"]), values
    )
    head = ["elements, bits, bins, zeros, compile, memory", "encode ns", "copies", "limit"]
    for voters in values["voters"]:
        head += [f"vote {voters} ns", "copies", "limit"]
    rows = []
    for case, record in zip(cases, records, strict=True):
        figures = [record["encode"], *record["votes"].values()]
        shown = [f"{one[key]:.2f}" for one in figures for key in ("ns", "copies", "limit_copies")]
        settings_shown = (case.num_bits, case.binning, case.zeros, case.compile, case.memory)
        name = " ".join([f"{case.numel:,}", *map(str, settings_shown)])
        rows.append([name, *shown])
    click.echo(format_table(head, rows))
    if picture is not None:
        from compsgd.plots import draw_codec_benchmark

        draw_codec_benchmark(records, picture)
        click.echo(f"plot: {picture}")


@bench.command(cls=SpreadingCommand, context_settings=_SETTINGS)
@_several("--sizes", IntegerRange(min=1), [10**5, 10**6, 10**7], "Elements.")
@_common
@_several("--num_workers", IntegerRange(min=1), [4], "Workers, all in this process.")
def step(**values: Any) -> None:
    """Whole rounds of N workers in one process: their ballots, the vote, the update.

    "first s" is the first round, which may compile. "peak" is the memory that a round takes at its
    peak beyond the ranges and the packed ballots, in copies of the gradient.
    """
    settings = ("sizes", "num_bits", "num_workers", "compile")
    combinations = list(itertools.product(*(values[name] for name in settings)))

    def measure(combination: tuple[int, int, int, str]) -> dict[str, Any]:
        numel, num_bits, num_workers, compile = combination
        case = CodecCase(numel, num_bits, "lin", "broken", compile)
        return measure_round(case, num_workers, values["repeats"])

    records = _measure(combinations, measure, values)
    head = ["elements, bits, workers, compile", "first s", "round ns", "copies", "peak"]
    rows = []
    for (numel, *others), record in zip(combinations, records, strict=True):
        peak = record["peak_extra_copies"]
        rows.append(
            [
                " ".join([f"{numel:,}", *map(str, others)]),
                f"{record['first_seconds']:.1f}",
                f"{record['round_ns']:.2f}",
                f"{record['round_copies']:.1f}",
                "-" if peak is None else f"{peak:.2f}",
            ]
        )
    click.echo(format_table(head, rows))


def _measure(
    cases: Sequence[Any], measure: Callable[[Any], dict[str, Any]], values: dict[str, Any]
) -> list[dict[str, Any]]:
    """All cases, with a bar on a terminal; the figures as JSON if asked for."""
    torch.set_num_threads(values["threads"])
    began = time.time()
    with click.progressbar(cases, label="measuring", file=sys.stderr) as bar:
        records = [measure(case) for case in bar]
    if values["json_path"] is not None:
        report = {"machine": machine(), "seconds": time.time() - began, "measurements": records}
        write_json(values["json_path"], report)
    return records

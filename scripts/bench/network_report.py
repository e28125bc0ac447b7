"""network.md and figures: when compression pays, from what network.py has measured."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from network_rows import UNSHAPED, Row, link_of
from steps import ALONE, EXCHANGE, KINDS, MODELS, ONE_BUCKET, STEP

from compsgd.files import atomic_write
from compsgd.plots import save_figure
from compsgd.plots.style import (
    add_legend,
    in_paper_style,
    line_style,
    new_grid,
    share_axes,
    show_plain_numbers,
)
from compsgd.workers.bench.provenance import footer
from compsgd.workers.report.tables import markdown_table

_FLOAT32, _SIXTEEN = "float32", ("bf16", "fp16")
_HEAD = """# Steps over links of every rate

Made by `sudo python scripts/bench/network.py` from network.csv. Hosts are network namespaces on one
machine, whose cores they share; each link has that rate in either direction. Each cell has the
median milliseconds, and then three ratios: float32 / this, the better of both 16-bit hooks / this,
and, of what takes longer than without communication, how many times as long as the bytes that a
host sends take on its link. The exchange is a step of the same parameters without the model's work.
"""
_IN_SHORT = """## In short

How many times as long as with a vote of 3 bits a whole step takes with float32, with 16 bits, and
with PowerSGD of rank 1: above 1 the vote is ahead. Of the vote and of 16 bits the better of two
ways each."""
_TITLES = {STEP: "whole training step", EXCHANGE: "exchange"}
# A figure's lines: the best of these methods.
_LINES: Mapping[str, Sequence[str]] = {
    "float32": [_FLOAT32],
    "16 bit": _SIXTEEN,
    "PowerSGD, rank 1": [f"PowerSGD 1{ONE_BUCKET}"],
    "vote, 3 bits": ["vote, 3 bits, all_gather", "vote, 3 bits, scatter_reduce"],
    "vote, 3 bits, coded": ["vote, 3 bits, coded"],
    "vote, 1 bit": ["vote, 1 bit, all_gather", "vote, 1 bit, scatter_reduce"],
}
_OURS = "vote, 3 bits"
_NOTHING = "-"

Times = Mapping[tuple[str, str], Row]
Draw = Callable[[Axes, Times], None]
# Of a method's row and that without communication.
Value = Callable[[Row, Row], float]


def write_report(rows: Sequence[Row], folder: Path) -> None:
    """Writes network.md, and network_<model>.png and utilisation_<model>.png."""
    rows = in_order(rows)
    parts = [_HEAD, _IN_SHORT, _summary([row for row in rows if row.kind == STEP])]
    for kind in KINDS:
        for model, num_hosts in dict.fromkeys((row.model, row.num_hosts) for row in rows):
            here = {
                (row.method, row.rate): row
                for row in rows
                if (row.model, row.num_hosts, row.kind) == (model, num_hosts, kind)
            }
            if here:
                parts += [f"## {model}, {num_hosts} hosts: {_TITLES[kind]}", _table(here)]
    parts.append(footer(rows))
    with atomic_write(folder / "network.md") as file:
        file.write(("\n\n".join(parts) + "\n").encode())
    steps = [row for row in rows if row.kind == STEP]
    for model in dict.fromkeys(row.model for row in steps):
        own = [row for row in steps if row.model == model]
        save_figure(_figure(model, own, _draw_times), folder / f"network_{model}.png")
        save_figure(_figure(model, own, _draw_utilisation), folder / f"utilisation_{model}.png")


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By model and number of hosts, and else as they come."""
    models = list(MODELS)
    return sorted(rows, key=lambda row: (models.index(row.model), row.num_hosts))


def _summary(steps: Sequence[Row]) -> str:
    others = ("float32", "16 bit", "PowerSGD, rank 1")
    rates = sorted({row.rate for row in steps}, key=lambda rate: link_of(rate).bits_per_s)
    rows = []
    for model, num_hosts in dict.fromkeys((row.model, row.num_hosts) for row in steps):
        here = {(row.method, row.rate): row for row in steps
                if (row.model, row.num_hosts) == (model, num_hosts)}  # fmt: skip
        cells = []
        for rate in rates:
            ours = _best(here, _OURS, rate)
            theirs = [_best(here, name, rate) for name in others]
            ratios = [one.ms / ours.ms if one and ours else math.nan for one in theirs]
            cells.append(_shown(ratios))
        rows.append([f"{model}, {num_hosts} hosts", *cells])
    return markdown_table(["", *rates], rows)


def _best(here: Times, line: str, rate: str) -> Row | None:
    """The fastest of the methods of a line."""
    there = [here[method, rate] for method in _LINES[line] if (method, rate) in here]
    return min(there, key=lambda row: row.ms, default=None)


def _shown(ratios: Sequence[float]) -> str:
    return " ".join(f"{ratio:.2f}" if math.isfinite(ratio) else _NOTHING for ratio in ratios)


def _table(here: Times) -> str:
    methods = list(dict.fromkeys(method for method, _ in here))
    rates = sorted({rate for _, rate in here}, key=lambda rate: link_of(rate).bits_per_s)
    rows = [[method, *(_cell(here, method, rate) for rate in rates)] for method in methods]
    return markdown_table(["", *rates], rows)


def _cell(here: Times, method: str, rate: str) -> str:
    row = here.get((method, rate))
    if row is None:
        return _NOTHING
    sixteen = _best(here, "16 bit", rate)
    sixteen_ms = sixteen.ms if sixteen else math.nan
    ratios = [_ms(here, _FLOAT32, rate) / row.ms, sixteen_ms / row.ms, _beyond_bytes(here, row)]
    return f"**{row.ms:,.0f}** {_shown(ratios)}"


def _ms(here: Times, method: str, rate: str) -> float:
    row = here.get((method, rate))
    return math.nan if row is None else row.ms


def _beyond_bytes(here: Times, row: Row) -> float:
    """What is exposed, over the bytes' own time."""
    bytes_ms = row.sent_bytes * 8 / row.bits_per_s * 1e3
    exposed_ms = row.ms - _ms(here, ALONE, row.rate)
    return exposed_ms / bytes_ms if bytes_ms and row.method != ALONE else math.nan


# Figures.


@in_paper_style
def _figure(model: str, rows: Sequence[Row], draw: Draw) -> Figure:
    """An axis for each number of hosts."""
    counts = sorted({row.num_hosts for row in rows})
    figure, axes = new_grid([f"{count} hosts" for count in counts], model)
    for axis, count in zip(axes, counts, strict=True):
        here = {(row.method, row.rate): row for row in rows if row.num_hosts == count}
        draw(axis, here)
        axis.set_xscale("log")
        show_plain_numbers(axis.xaxis)
        axis.set_xlabel("link (Gbit/s)")
        axis.grid(alpha=0.3)
    share_axes(figure, axes)
    add_legend(figure, axes)
    return figure


def _draw_times(axis: Axes, here: Times) -> None:
    """Milliseconds of a step against the rate; marks where the vote stops to pay."""
    lines = _draw_lines(axis, here, lambda row, alone: row.ms)
    axis.set_yscale("log")
    axis.margins(y=0.15)
    show_plain_numbers(axis.yaxis)
    axis.set_ylabel("step (ms)")
    # Above the line where float32 overtakes the vote, and below it where 16 bits do.
    for other, (offset, side) in {"float32": (4, "bottom"), "16 bit": (-4, "top")}.items():
        for rate, ms in crossovers(lines.get(_OURS, []), lines.get(other, [])):
            axis.plot([rate], [ms], "o", color="black", markersize=3)
            axis.annotate(f"{rate:.2g}", (rate, ms), (0, offset), textcoords="offset points",
                          fontsize="x-small", ha="center", va=side)  # fmt: skip


def _draw_utilisation(axis: Axes, here: Times) -> None:
    """The share of a step that is computing."""
    _draw_lines(axis, here, lambda row, alone: 100 * alone.ms / row.ms)
    axis.set_ylim(0, 105)
    axis.set_ylabel("computing (% of a step)")


def _draw_lines(axis: Axes, here: Times, value: Value) -> dict[str, list[tuple[float, float]]]:
    """Draws each of _LINES; gives its points, (Gbit/s, value)."""
    drawn: dict[str, list[tuple[float, float]]] = {}
    rates = [rate for rate in {rate for _, rate in here} if rate != UNSHAPED]
    for index, name in enumerate(_LINES):
        points = []
        for rate in sorted(rates, key=lambda one: link_of(one).bits_per_s):
            best, alone = _best(here, name, rate), here.get((ALONE, rate))
            if best is not None and alone is not None:
                points.append((link_of(rate).bits_per_s / 1e9, value(best, alone)))
        drawn[name] = points
        if points:
            axis.plot(*zip(*points, strict=True), label=name, marker=".", **line_style(index))
    return drawn


def crossovers(
    ours: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Where two lines cross, in logarithmic axes.

    Args:
        ours, others: points (x, y), above 0, at rising x; only where both have one counts.
    """
    by_x = dict(others)
    both = [(x, y, by_x[x]) for x, y in ours if x in by_x]
    found = []
    for (x0, a0, b0), (x1, a1, b1) in pairwise(both):
        before, behind = math.log(a0 / b0), math.log(a1 / b1)
        if before * behind < 0:
            share = before / (before - behind)
            between = [start * (end / start) ** share for start, end in ((x0, x1), (a0, a1))]
            found.append((between[0], between[1]))
    return found

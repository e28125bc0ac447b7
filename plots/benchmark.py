"""What `compsgd bench codec` measured, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from compsgd.plots.style import (
    add_legend,
    in_paper_style,
    line_style,
    new_grid,
    save_figure,
)

Record = dict[str, Any]


@in_paper_style
def codec_figure(records: Sequence[Record]) -> Figure:
    """Encoding, and each number of voters, in an axis: copies over elements.

    Args:
        records: the measurements, as `compsgd bench codec --json` writes them.
    """
    voters = list(dict.fromkeys(count for record in records for count in record["votes"]))
    panels = {"encode": "encode"} | {count: f"vote on {count}" for count in voters}
    figure, axes = new_grid(list(panels.values()), "Time of the codec in float32 copies")
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, records, panel)
    add_legend(figure, axes)
    return figure


def draw_codec_benchmark(records: Sequence[Record], path: Path) -> Path:
    """Draws the time of encoding and of each number of voters, an axis each, over elements, in
    float32 copies of as many elements.

    Args:
        records: the measurements, as `compsgd bench codec --json` writes them.
        path: of the figure; PNG, PDF or SVG by its ending.

    Returns:
        the path.

    Raises:
        OSError: the file cannot be written.
        ValueError: an ending that matplotlib does not know.

    Examples:
        >>> from pathlib import Path
        >>> from compsgd.plots import draw_codec_benchmark
        >>> case = {"num_bits": 3, "binning": "lin", "zeros": "broken", "compile": "on"}
        >>> times = {"copies": 2.0, "limit_copies": 1.1}
        >>> record = case | {"numel": 1000, "encode": times, "votes": {"4": times}}
        >>> draw_codec_benchmark([record], Path("codec.svg")).name
        'codec.svg'
    """
    return save_figure(codec_figure(records), path)


def _draw_panel(axis: Axes, records: Sequence[Record], panel: Any) -> None:
    lines: dict[str, list[Record]] = {}
    for record in records:
        lines.setdefault(_label(record), []).append(record)
    for i, (label, points) in enumerate(lines.items()):
        figures = [_figures(record, panel) for record in points]
        sizes = [record["numel"] for record in points]
        copies = [one["copies"] for one in figures]
        axis.plot(sizes, copies, label=label, marker=".", **line_style(i))
    limits = [_figures(record, panel)["limit_copies"] for record in records]
    axis.axhspan(min(limits), max(limits), color="0.85", label="traffic-only limit", zorder=0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("elements")
    axis.set_ylabel("float32 copies")
    axis.grid(alpha=0.3)


def _label(record: Record) -> str:
    mode = "" if record["compile"] == "on" else ", eager"
    memory = record.get("memory", "range")
    mode += "" if memory == "range" else f", {memory}"
    return f"{record['num_bits']} bits, {record['binning']}, zeros {record['zeros']}{mode}"


def _figures(record: Record, panel: Any) -> dict[str, float]:
    figures: dict[str, float] = record["encode"] if panel == "encode" else record["votes"][panel]
    return figures

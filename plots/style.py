"""How figures look: as wide as a column of a paper, in colours that colour-blind readers tell
apart, with legends outside the axes."""

import contextlib
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from compsgd.files import atomic_write

# Okabe and Ito's palette, without its yellow, which is lost on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_LINE_STYLES = ("-", "--", ":", "-.")

# Of two columns on A4 or letter paper, and of both with what is between them.
_COLUMN_INCHES = 3.4
_TEXT_INCHES = 7.0
_ALONE_INCHES = 2.3
_ROW_INCHES = 1.8
_LINE_INCHES = 0.15
# What a legend's handle takes, and what is left free at the edges of a figure.
_HANDLE_INCHES, _MARGIN_INCHES = 0.35, 0.1
# Beside an axis of a grid: its ticks and their labels; and what is between two axes.
_TICKS_INCHES, _BETWEEN_INCHES = 0.35, 0.1
# Of a row of a grid, what the title and the labels to the right take.
_AROUND_INCHES = 0.35
_GRID_TICKS = 4
# For which 1, 2 and 5 of each have room.
_MOST_DECADES = 2.5
_DOTS_PER_INCH = 300

_FONT_SIZE = 8
_LEGEND_SIZE = _FONT_SIZE - 1

in_paper_style = matplotlib.rc_context(
    {
        "font.size": _FONT_SIZE,
        "axes.titlesize": "medium",
        "figure.titlesize": "medium",
        "figure.labelsize": "medium",
        "legend.fontsize": _LEGEND_SIZE,
        "legend.frameon": False,
        "legend.handlelength": 1.5,
        "legend.handletextpad": 0.4,
        "legend.columnspacing": 1.0,
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
    }
)
"""Decorates whatever makes a figure."""


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the index-th line; 28 differ."""
    colour = _COLOURS[index % len(_COLOURS)]
    return {
        "color": colour,
        "linestyle": _LINE_STYLES[index // len(_COLOURS) % len(_LINE_STYLES)],
    }


def level_colours(num_levels: int) -> list[Any]:
    """From blue (lowest level) over grey to red (highest)."""
    colour_map = matplotlib.colormaps["coolwarm"]
    return [colour_map(i / max(1, num_levels - 1)) for i in range(num_levels)]


def size_colours(num_sizes: int) -> list[Any]:
    """From light (smallest) to dark (largest), on which all readers agree."""
    colour_map = matplotlib.colormaps["cividis_r"]
    return [colour_map(i / max(1, num_sizes - 1)) for i in range(num_sizes)]


def new_figure(rows: int, columns: int, title: str) -> tuple[Figure, list[Axes]]:
    """A titled figure and its axes, row by row: alone as wide as a column of paper, several at most
    as wide as its text."""
    alone = rows == columns == 1
    width = _COLUMN_INCHES if alone else min(_TEXT_INCHES, _COLUMN_INCHES * columns)
    height = _ALONE_INCHES if alone else _ROW_INCHES * rows
    title = wrapped(drawable(title), width - 2 * _MARGIN_INCHES, _FONT_SIZE)
    figure = Figure(
        figsize=(width, height + _LINE_INCHES * title.count("\n")), layout="constrained"
    )
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        # Ticks are made when they are drawn, perhaps outside of this style.
        axis.tick_params(labelsize=_FONT_SIZE - 1)
    if title:
        figure.suptitle(title)
    return figure, axes


def new_grid(names: Sequence[str], title: str) -> tuple[Figure, list[Axes]]:
    """A titled figure and an axis for each name, at most 3 in a row; several say their names."""
    columns = _columns(len(names))
    figure, axes = new_figure(-(-len(names) // columns), columns, title)
    used, unused = axes[: len(names)], axes[len(names) :]
    if len(used) > 1:
        width = figure.get_figwidth() / columns - _TICKS_INCHES
        lines = [wrapped(drawable(name), width, _FONT_SIZE) for name in names]
        for axis, name in zip(used, lines, strict=True):
            axis.set_title(name)
        _grow(figure, _LINE_INCHES * max(name.count("\n") for name in lines) * len(axes) / columns)
    for axis in unused:
        axis.set_axis_off()
    return figure, used


def _columns(count: int) -> int:
    return min(3, count) if count != 4 else 2


def share_axes(figure: Figure, axes: Sequence[Axes], *, x: bool = True) -> None:
    """Gives the axes of a grid, once all is drawn, the same limits, so that they can be compared,
    and labels to those at the edge.

    Args:
        x: whether the limits to the right are the same, too.
    """
    if len(axes) == 1:
        return
    columns = _columns(len(axes))
    for axis in axes[1:]:
        axis.sharey(axes[0])
        if x:
            axis.sharex(axes[0])
    axes[0].autoscale_view()
    _keep_ticks_apart(figure, axes)
    width = figure.get_figwidth() / columns - _TICKS_INCHES
    height = _ROW_INCHES - _AROUND_INCHES
    for index, axis in enumerate(axes):
        is_first, is_lowest = index % columns == 0, index + columns >= len(axes)
        axis.set_xlabel(wrapped(axis.get_xlabel(), width, _FONT_SIZE) if is_lowest else "")
        axis.set_ylabel(wrapped(axis.get_ylabel(), height, _FONT_SIZE) if is_first else "")
        axis.tick_params(labelleft=is_first, labelbottom=is_lowest or not x)


def _keep_ticks_apart(figure: Figure, axes: Sequence[Axes]) -> None:
    """Those of neighbours, which would read as one number."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine), "new_figure makes it"
    engine.set(w_pad=_BETWEEN_INCHES)
    for axis in axes:
        locator = axis.xaxis.get_major_locator()
        if isinstance(locator, MaxNLocator):
            locator.set_params(nbins=_GRID_TICKS)


def count_in_whole_numbers(axis: Axes) -> None:
    """Steps and epochs to the right: ticks are whole numbers, of a single one, too."""
    axis.xaxis.set_major_locator(
        MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )


def show_plain_numbers(*axes: Axis) -> None:
    """On logarithmic axes, once all is drawn: 1, 2, 5, 10 in place of powers, and over many decades
    1, 10, 100."""
    for axis in axes:
        low, high = axis.get_view_interval()
        is_wide = low > 0 and math.log10(high / low) > _MOST_DECADES
        axis.set_major_locator(LogLocator(subs=(1,) if is_wide else (1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend below all axes, so that it hides no line, in as many columns as there is room for;
    the figure grows by it."""
    handles, labels = axes[0].get_legend_handles_labels()
    if not handles:
        return
    room = figure.get_figwidth() - 2 * _MARGIN_INCHES
    labels = [wrapped(drawable(label), room - _HANDLE_INCHES, _LEGEND_SIZE) for label in labels]
    for rows in range(1, len(labels) + 1):
        columns = -(-len(labels) // rows)
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        width, height = _inches(figure, legend)
        if width <= room or columns == 1:
            _grow(figure, height)
            return
        legend.remove()


def add_note(figure: Figure, note: str) -> None:
    """A remark that stands below a figure's title."""
    size = _FONT_SIZE - 1
    note = wrapped(note, figure.get_figwidth() - 2 * _MARGIN_INCHES, size)
    above = figure.get_suptitle()
    figure.suptitle(f"{above}\n{note}" if above else note)
    _grow(figure, _LINE_INCHES * (note.count("\n") + 1))


def _grow(figure: Figure, height_inches: float) -> None:
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + height_inches)


def drawable(text: str) -> str:
    """Text as fonts can have it: of a name that is no text in the system's encoding, Python has
    its bytes as surrogates, which are read as UTF-8 here."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def wrapped(text: str, width_inches: float, size: float) -> str:
    """Text of that size in points, in lines that are no wider, as the font has it."""
    return "\n".join(_wrapped_line(line, width_inches, size) for line in text.splitlines())


def _wrapped_line(line: str, width_inches: float, size: float) -> str:
    width = _text_inches(line, size)
    if width <= width_inches:
        return line
    most = max(1, int(len(line) * width_inches / width) + 5)
    for count in range(most, 1, -1):
        found = textwrap.fill(line, count)
        if all(_text_inches(part, size) <= width_inches for part in found.splitlines()):
            return found
    return line


def _inches(figure: Figure, shown: Artist) -> tuple[float, float]:
    """Width and height of something in a figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    with _boxes_for_glyphs():
        box = shown.get_window_extent(renderer)
    return box.width / figure.dpi, box.height / figure.dpi


@contextlib.contextmanager
def _boxes_for_glyphs() -> Iterator[None]:
    """Within, nothing is said of letters that a font does not have, which are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        yield


@lru_cache(maxsize=1024)
def _text_inches(text: str, size: float) -> float:
    """How wide it is, taken as it stands: a formula may be none."""
    figure = Figure()
    return _inches(figure, figure.text(0, 0, text, fontsize=size, parse_math=False))[0]


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure, atomically, at 300 dots an inch.

    Args:
        figure: what is written.
        path: of the file; PNG, PDF or SVG by its ending.

    Returns:
        the path.

    Raises:
        OSError: the file cannot be written.
        ValueError: an ending that matplotlib does not know.

    Examples:
        >>> from pathlib import Path
        >>> from compsgd.plots import RatePoint, compression_figure, save_figure
        >>> figure = compression_figure({"vote": [RatePoint("1 bit", 32.0, 97.0)]})
        >>> save_figure(figure, Path("rates.pdf")).read_bytes()[:5]
        b'%PDF-'
    """
    with atomic_write(path) as file:
        write_figure(figure, file, path.suffix[1:])
    return path


def write_figure(figure: Figure, file: IO[bytes], format: str) -> None:
    """Writes a figure into an open file, at 300 dots an inch.

    Args:
        figure: what is written.
        file: open for bytes.
        format: "png", "pdf" or "svg".

    Raises:
        ValueError: a format that matplotlib does not know.

    Examples:
        >>> import io
        >>> from compsgd.plots import RatePoint, compression_figure, write_figure
        >>> figure = compression_figure({"vote": [RatePoint("1 bit", 32.0, 97.0)]})
        >>> drawn = io.BytesIO()
        >>> write_figure(figure, drawn, "svg")
        >>> b"</svg>" in drawn.getvalue()
        True
    """
    with _boxes_for_glyphs():
        figure.savefig(file, format=format, dpi=_DOTS_PER_INCH)

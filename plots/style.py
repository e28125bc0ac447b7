"""How figures look: as wide as a column of a paper, in colours that colour-blind readers tell
apart, with legends outside the axes."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
_CHARACTERS_PER_INCH, _TITLE_CHARACTERS_PER_INCH = 20, 16
_HANDLE_CHARACTERS = 5
_DOTS_PER_INCH = 300

_FONT_SIZE = 8

in_paper_style = matplotlib.rc_context(
    {
        "font.size": _FONT_SIZE,
        "axes.titlesize": "medium",
        "figure.titlesize": "medium",
        "legend.fontsize": _FONT_SIZE - 1,
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
    height = (_ALONE_INCHES if alone else _ROW_INCHES * rows) + _LINE_INCHES * title.count("\n")
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        # Ticks are made when they are drawn, perhaps outside of this style.
        axis.tick_params(labelsize=_FONT_SIZE - 1)
    if title:
        figure.suptitle(_wrapped(drawable(title), width))
    return figure, axes


def new_grid(names: Sequence[str], title: str) -> tuple[Figure, list[Axes]]:
    """A titled figure and an axis for each name, at most 3 in a row; several say their names."""
    columns = min(3, len(names)) if len(names) != 4 else 2
    figure, axes = new_figure(-(-len(names) // columns), columns, title)
    used, unused = axes[: len(names)], axes[len(names) :]
    if len(used) > 1:
        for axis, name in zip(used, names, strict=True):
            axis.set_title(drawable(name))
    for axis in unused:
        axis.set_axis_off()
    return figure, used


def add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend below all axes, so that it hides no line; the figure grows by it."""
    handles, labels = axes[0].get_legend_handles_labels()
    if not handles:
        return
    width, height = figure.get_size_inches()
    line = int(width * _CHARACTERS_PER_INCH)
    labels = [textwrap.fill(drawable(label), line - _HANDLE_CHARACTERS) for label in labels]
    longest = max(len(part) for label in labels for part in label.splitlines())
    columns = max(1, min(len(labels), line // (longest + _HANDLE_CHARACTERS)))
    num_lines = -(-sum(label.count("\n") + 1 for label in labels) // columns)
    figure.set_size_inches(width, height + _LINE_INCHES * num_lines)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def drawable(text: str) -> str:
    """Text as fonts can have it: of a name that is no text in the system's encoding, Python has
    its bytes as surrogates, which are read as UTF-8 here."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _wrapped(title: str, width_inches: float) -> str:
    width = int(width_inches * _TITLE_CHARACTERS_PER_INCH)
    return "\n".join(textwrap.fill(line, width) for line in title.splitlines())


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

    Example:
        >>> from pathlib import Path
        >>> from compsgd.plots import RatePoint, compression_figure, save_figure
        >>> figure = compression_figure({"vote": [RatePoint("1 bit", 32.0, 97.0)]})
        >>> save_figure(figure, Path("rates.pdf")).read_bytes()[:5]
        b'%PDF-'
    """
    with atomic_write(path) as file, warnings.catch_warnings():
        # Boxes are drawn in place of them.
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        figure.savefig(file, format=path.suffix[1:], dpi=_DOTS_PER_INCH)
    return path

"""How figures look: colours that colour-blind readers tell apart, legends beside the axes."""

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


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the index-th line; 28 differ."""
    colour = _COLOURS[index % len(_COLOURS)]
    return {
        "color": colour,
        "linestyle": _LINE_STYLES[index // len(_COLOURS) % len(_LINE_STYLES)],
        "linewidth": 1.3,
    }


def level_colours(num_levels: int) -> list[Any]:
    """From blue (lowest level) over grey to red (highest)."""
    colour_map = matplotlib.colormaps["coolwarm"]
    return [colour_map(i / max(1, num_levels - 1)) for i in range(num_levels)]


def new_figure(rows: int, columns: int, title: str) -> tuple[Figure, list[Axes]]:
    """A titled figure and its axes, row by row."""
    alone = rows == columns == 1
    size = (7.0, 4.0) if alone else (4.0 * columns + 1, 2.6 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    if alone:
        # Over the axis, not the figure: beside it the legend has its place.
        axes[0].set_title(title, fontsize="medium")
    else:
        figure.suptitle(title)
    return figure, axes


def grid_shape(count: int) -> tuple[int, int]:
    """Rows and columns for so many axes, at most 4 columns."""
    columns = min(4, count) if count != 4 else 2
    return -(-count // columns), columns


def add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend outside all axes, so that it hides no line."""
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", fontsize="small", frameon=False)


def save_figure(figure: Figure, path: Path) -> Path:
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=150)
    return path

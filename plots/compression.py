"""What compression costs in accuracy."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from compsgd.plots.style import add_legend, in_paper_style, line_style, new_figure


class RatePoint(NamedTuple):
    """A run: what it is called, uncompressed bytes over its own, and its accuracy in percent."""

    label: str
    compression_rate: float
    accuracy: float


@in_paper_style
def compression_figure(
    lines: Mapping[str, Sequence[RatePoint]], *, title: str = "", y_label: str = "test accuracy (%)"
) -> Figure:
    """Accuracy against compression rate, a line for each entry, a labelled mark for each run.

    Args:
        lines: by their names; their points are joined by rising rate.
        title: above the figure.
        y_label: which accuracy.
    """
    figure, (axis,) = new_figure(1, 1, title)
    for i, (name, points) in enumerate(lines.items()):
        points = sorted(points, key=lambda point: point.compression_rate)
        rates = [point.compression_rate for point in points]
        accuracies = [point.accuracy for point in points]
        axis.plot(rates, accuracies, label=name, marker="o", **line_style(i))
    for label, rate, accuracy in _highest_by_label(lines):
        # Slanted: the rates of many bits lie close together.
        axis.annotate(
            label, (rate, accuracy), xytext=(0, 3), textcoords="offset points", rotation=60,
            fontsize="x-small",
        )  # fmt: skip
    axis.margins(x=0.1, y=0.2)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}x")
    axis.set_xlabel("compression rate")
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    add_legend(figure, [axis])
    return figure


def _highest_by_label(lines: Mapping[str, Sequence[RatePoint]]) -> list[RatePoint]:
    """Of the points that share a label, and so lie above each other, the one to write it at."""
    highest: dict[str, RatePoint] = {}
    for point in (point for points in lines.values() for point in points):
        if point.label not in highest or point.accuracy > highest[point.label].accuracy:
            highest[point.label] = point
    return list(highest.values())

"""What compression costs in accuracy."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from compsgd.plots.style import add_legend, in_paper_style, line_style, new_figure


class RatePoint(NamedTuple):
    """A run in a figure of accuracy against compression.

    Attributes:
        label: what it is called, as "3 bits".
        compression_rate: uncompressed bytes over its own; above 0.
        accuracy: in percent.

    Examples:
        >>> from compsgd.plots import RatePoint
        >>> RatePoint("3 bits", compression_rate=10.6, accuracy=98.5).label
        '3 bits'
    """

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

    Returns:
        the figure: the rate to the right, on a scale of powers of 2, and percent upwards.

    Examples:
        >>> from compsgd.plots import RatePoint, compression_figure
        >>> vote = [RatePoint("1 bit", 32.0, 97.0), RatePoint("3 bits", 10.6, 98.5)]
        >>> (axis,) = compression_figure({"vote": vote}).axes
        >>> axis.lines[0].get_xdata().tolist()
        [10.6, 32.0]
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

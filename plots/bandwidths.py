"""What a step takes against the bandwidth of a link."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from compsgd.plots.style import (
    add_legend,
    in_paper_style,
    line_style,
    new_figure,
    show_plain_numbers,
)

_PER_SECOND = 1e9


@in_paper_style
def bandwidth_figure(
    lines: Mapping[str, Sequence[tuple[float, float]]], *, title: str = ""
) -> Figure:
    """Milliseconds of a step against the bandwidth of a link, a line for each method.

    Args:
        lines: points (bits a second, seconds) by rising bandwidth, by the method's name.
        title: above the figure.

    Examples:
        >>> from compsgd.plots import bandwidth_figure
        >>> (axis,) = bandwidth_figure({"float32": [(1e9, 0.5), (1e10, 0.1)]}).axes
        >>> axis.lines[0].get_xdata().tolist()
        [1.0, 10.0]
    """
    figure, (axis,) = new_figure(1, 1, title)
    for index, (name, points) in enumerate(lines.items()):
        rates = [rate / _PER_SECOND for rate, _ in points]
        axis.plot(rates, [1e3 * seconds for _, seconds in points], label=name, **line_style(index))
    axis.set_xscale("log")
    axis.set_yscale("log")
    show_plain_numbers(axis.xaxis, axis.yaxis)
    axis.set_xlabel("link (Gbit/s)")
    axis.set_ylabel("step (ms)")
    axis.grid(alpha=0.3)
    add_legend(figure, [axis])
    return figure

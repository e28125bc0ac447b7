"""A figure for each question, of the tasks that have something to say about it."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plan import Part, reported
from records import Records
from summaries import Summary, best_baseline, summarise
from tasks import TASKS, Task

from compsgd.plots import Run, average_figure, save_figure
from compsgd.plots.style import add_legend, in_paper_style, line_style, new_figure

# Lines of more methods cannot be told apart.
_IN_CURVES = ("adamw", "sgdm", "vote3", "vote1", "signum")
_BITS = {f"vote{bits}": bits for bits in (1, 2, 3, 4, 8)}
_WORKERS = {
    "vote, 3 bits": {"vote3": 4, "vote3_n8": 8, "vote3_n16": 16},
    "AdamW": {"adamw": 4, "adamw_n8": 8, "adamw_n16": 16},
}
_OTHERS = ("ddp_adamw", "fp16", "powersgd1", "powersgd2", "lion", "hook_adamw_vote3",
           "hook_adamw_vote1", "hook_sgd_vote3", "vote3", "vote1")  # fmt: skip
_SWITCHES = ("vote3_", "vote1_")
_NO_SWITCHES = ("vote3_n8", "vote3_n16")


def draw_all(plan: Sequence[Part], records: Records, folder: Path) -> list[Path]:
    """Draws every figure that there are results for; gives their files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in dict.fromkeys(name for name, _ in plan):
        task = TASKS[name]
        there = [one for one in summarise(plan, task, records) if one.is_there]
        for question, figure in _figures(task, there, records):
            written.append(save_figure(figure, folder / f"{name}_{question}.png"))
    return written


def _figures(
    task: Task, there: Sequence[Summary], records: Records
) -> Iterator[tuple[str, Figure]]:
    """By the name of their question."""
    in_curves = [one for one in there if one.method.name in _IN_CURVES]
    if in_curves:
        yield "rounds", _curves(task, in_curves, records, "steps")
        yield "bytes", _curves(task, in_curves, records, "bytes")
    for question, draw, chosen in (
        ("bits", _bits, lambda name: name in _BITS),
        ("switches", _dots, _is_switch),
        ("workers", _workers, lambda name: any(name in line for line in _WORKERS.values())),
        ("hook", _dots, lambda name: name in _OTHERS),
    ):
        found = [one for one in there if chosen(one.method.name)]
        has_axis = draw is not _workers or len({one.num_workers for one in found}) > 1
        if len(found) > 1 and has_axis:
            yield question, draw(task, found, there)


def _is_switch(name: str) -> bool:
    return name == "vote3" or (name.startswith(_SWITCHES) and name not in _NO_SWITCHES)


def _curves(task: Task, found: Sequence[Summary], records: Records, x: str) -> Figure:
    """Of the training loss: means over seeds, and the band between them."""
    groups = [
        (one.method.name, [_as_run(one, points) for points in _all_points(one, records)])
        for one in found
    ]
    return average_figure(groups, "batch_loss_hist", x=x, title=task.title,
                          y_label="training loss (nats)")  # fmt: skip


def _all_points(one: Summary, records: Records) -> Iterator[list[tuple[int, float]]]:
    """By seed, the curve as rounds and losses."""
    for trial in reported(one.task, one.method, records.metric):
        curve = records.curve(trial)
        if curve:
            yield [(point.round, point.loss) for point in curve]


def _as_run(one: Summary, points: Sequence[tuple[int, float]]) -> Run:
    rounds, losses = zip(*points, strict=True)
    return Run(
        one.method.name,
        {
            "batch_loss_hist": list(losses),
            "batch_step_hist": list(rounds),
            "bytes_sent_hist": np.full(rounds[-1], one.bytes_per_step),
        },
    )


Drawing = Callable[[Task, Sequence[Summary], Sequence[Summary]], Figure]


@in_paper_style
def _bits(task: Task, found: Sequence[Summary], there: Sequence[Summary]) -> Figure:
    points = [(_BITS[one.method.name], one) for one in found]
    figure, axis = _axis(task, "bits an element", {x for x, _ in points})
    _line(axis, 0, "vote", points)
    _baseline(axis.axhline, found[0], there)
    add_legend(figure, [axis])
    return figure


@in_paper_style
def _workers(task: Task, found: Sequence[Summary], there: Sequence[Summary]) -> Figure:
    numbers = {num for workers in _WORKERS.values() for num in workers.values()}
    figure, axis = _axis(task, "workers, each with as many batches", numbers)
    for i, (label, workers) in enumerate(_WORKERS.items()):
        points = [(workers[one.method.name], one) for one in found if one.method.name in workers]
        _line(axis, i, label, points)
    add_legend(figure, [axis])
    return figure


@in_paper_style
def _dots(task: Task, found: Sequence[Summary], there: Sequence[Summary]) -> Figure:
    """A row a method, the first one on top."""
    figure, (axis,) = new_figure(1, 1, task.title)
    figure.set_figheight(1.2 + 0.16 * len(found))
    for place, one in enumerate(found):
        axis.errorbar(one.mean, -place, xerr=one.deviation, fmt="o", capsize=2,
                      color=line_style(0)["color"])  # fmt: skip
    axis.set_yticks([-place for place in range(len(found))], [one.method.name for one in found])
    axis.set_ylim(0.5 - len(found), 0.5)
    axis.set_xlabel(task.metric.title)
    axis.grid(alpha=0.3)
    _baseline(axis.axvline, found[0], there)
    add_legend(figure, [axis])
    return figure


def _axis(task: Task, x_label: str, places: Collection[int]) -> tuple[Figure, Axes]:
    """With a tick at each of these places."""
    figure, (axis,) = new_figure(1, 1, task.title)
    axis.set_xlabel(x_label)
    axis.set_ylabel(task.metric.title)
    axis.grid(alpha=0.3)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(places), list(map(str, sorted(places))))
    return figure, axis


def _line(axis: Axes, index: int, label: str, points: Sequence[tuple[int, Summary]]) -> None:
    points = sorted(points, key=lambda point: point[0])
    axis.errorbar(
        [x for x, _ in points],
        [one.mean for _, one in points],
        yerr=[one.deviation or 0.0 for _, one in points],
        label=label, marker="o", capsize=2, **line_style(index),
    )  # fmt: skip


def _baseline(draw: Callable[..., object], one: Summary, there: Sequence[Summary]) -> None:
    """A line at the best float32 optimizer."""
    best = best_baseline(there, one.num_workers)
    if best is not None:
        draw(best.mean, label=f"float32: {best.method.name}", **line_style(6))

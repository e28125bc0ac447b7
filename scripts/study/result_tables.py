"""results.md: by task, what was found with how many bytes, and every learning rate tried."""

from collections.abc import Sequence
from pathlib import Path

from plan import Part, Tuning
from records import Records
from summaries import Summary, best_baseline, summarise
from tasks import TASKS, TUNING_SEED, Metric, Task

from compsgd.files import atomic_write
from compsgd.workers.bench.provenance import footer
from compsgd.workers.report.tables import markdown_table
from compsgd.workers.train.measures import format_number

NAME = "results.md"
_HEAD = """# Does compressed training lose anything?

Made by `python scripts/study/run.py` from results.csv; candidates.py and tasks.py say what was run.
Every method has tried five learning rates, a factor of 2 apart, with a seed of its own
({seed}); the best one is reported, over seeds that have tuned nothing: mean and standard deviation
between seeds. The difference is to the best float32 optimizer with as many workers. Bytes are those
that a worker sends in a step; compression is against a ring all-reduce of float32. The grids were
tried in this order of places: two below the centre to two above it.

`+`: the best of the five was at an edge, and two more beyond it were tried. `!`: the best of all is
still at an edge. More workers (`_n8`, `_n16`) have as many batches each, and so see more data.
"""
_NOTHING = "-"


def write_tables(plan: Sequence[Part], records: Records, out: Path) -> None:
    """Writes results.md, atomically."""
    names = list(dict.fromkeys(name for name, _ in plan))
    sections = [_section(TASKS[name], summarise(plan, TASKS[name], records)) for name in names]
    with atomic_write(out / NAME) as file:
        measured = footer(records.rows)
        file.write("\n".join([_HEAD.format(seed=TUNING_SEED), *sections, measured, ""]).encode())


def _section(task: Task, summaries: Sequence[Summary]) -> str:
    arrow = "less is better" if task.metric.is_loss else "more is better"
    parts = [f"## {task.name}", f"{task.title} {task.metric.title.capitalize()}; {arrow}."]
    head = ["method", "lr", task.metric.title, "difference", "bytes/worker/step", "compression",
            "runs"]  # fmt: skip
    parts.append(markdown_table(head, [_row(one, summaries) for one in summaries]))
    if not task.tuned_on:
        rows = [[one.method.name, _tried(one.tuning, task.metric)] for one in summaries]
        parts += [
            "Learning rates tried, the best one in bold:",
            markdown_table(["method", ""], rows),
        ]
    return "\n\n".join(parts) + "\n"


def _row(one: Summary, all_: Sequence[Summary]) -> list[str]:
    lr = _NOTHING if one.tuning.best is None else f"{one.tuning.best:g}{_marks(one.tuning)}"
    if not one.is_there:
        return [one.method.name, lr, *[_NOTHING] * 4, one.state]
    digits = one.task.metric.digits
    spread = "" if one.deviation is None else f" ± {one.deviation:.{digits}f}"
    baseline = best_baseline(all_, one.num_workers)
    is_apart = baseline is not None and baseline is not one
    return [
        one.method.name,
        lr,
        f"{one.mean:.{digits}f}{spread}",
        f"{one.mean - baseline.mean:+.{digits}f}" if baseline and is_apart else _NOTHING,
        f"{one.bytes_per_step:,.0f}",
        f"{one.compression:.1f}x",
        one.state,
    ]


def _marks(found: Tuning) -> str:
    return "!" if found.is_at_edge else "+" if found.is_extended else ""


def _tried(found: Tuning, metric: Metric) -> str:
    tried = [
        _emphasised(f"{trial.lr:g}: {format_number(value, metric.digits)}", trial.lr == found.best)
        for trial, value in zip(found.trials, found.values, strict=True)
        if value is not None
    ]
    return ", ".join(tried) or "not run"


def _emphasised(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text

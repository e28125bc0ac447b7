"""How long a training takes until it is good enough, over slow links.

sudo python scripts/study/time_to_target.py --data data

Four hosts, network namespaces on this machine (scripts/bench/netlab.py), which share its cores:
wall seconds, without evaluating, and megabytes that a host has sent until the held-out metric is
what was asked for, with DistributedDataParallel in float32, its fp16 hook, PowerSGD, and our
recipes; each with the learning rate that the study has found for it. What a link is like changes no
bit of a training. So the rounds are counted once, over links that nothing slows down, and over each
link some rounds are timed; with --whole whole trainings are, as a check.

Of the widest model, which is not in the study, --lr tries others:

sudo python scripts/study/time_to_target.py --races wide --rates unshaped --lr 0.001 --lr 0.002

Writes time_to_target.csv as it goes, and then time_to_target.md; what is there is not run again.
"""

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from compsgd.comm.exchange_choice import chosen_by_auto
from compsgd.files import atomic_write
from compsgd.workers.bench.provenance import footer, here_today
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.path_option import PathOption, make_folder
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.failures import RunError, terminated_like_interrupted
from compsgd.workers.prediction import links
from compsgd.workers.prediction.machine import Machine
from compsgd.workers.prediction.methods import Cluster, all_reduce, vote
from compsgd.workers.report.tables import markdown_table

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent / "bench"))
from csv_rows import read_rows, write_rows  # noqa: E402
from netlab import LabError, ask_ranks, places  # noqa: E402
from network_rows import UNSHAPED, link_of  # noqa: E402
from predictions import machine_of  # noqa: E402

_OUT = _HERE.parents[1] / "docs" / "measurements"
_NUM_HOSTS = 4
ALONE, FP16 = "no communication", "fp16"
RATES = ("100mbit", "1gbit")
_LATENCY_S = 50e-6
_WIDE = "timed_run:wide_mlp"
_NUMEL = {"gpt": 164_000, "vanilla_cnn": 3_217_226, _WIDE: 11_702_742}
_HEAD = """# Time to a target, over slow links

Made by `sudo python scripts/study/time_to_target.py` from time_to_target.csv. Four hosts, network
namespaces on one machine, whose cores they share; each link has that rate in either direction. A
link changes no bit of a training: rounds are those of a training over links that nothing slows
down, and a round over a link is the mean of some dozens (or of a whole training, where the
table says "all of it"). Learning rates are tuned, but for fp16 and PowerSGD on images, which get
that of float32. Seconds are rounds times that, of the wall clock, without evaluating;
megabytes are those that rank 0 has sent, as the kernel has counted them; one seed. "Allowed" is
what a round would take by the bytes and the measured computation alone, as `compsgd predict` has
them for ranks that share these cores, and "of the gain" how much of what that saves against fp16,
over the whole race, is saved. That computation, as "no communication", has AdamW's update in it,
of which our optimizer in the races on images has no need: there a vote may take less than allowed.
"""


@dataclass(frozen=True)
class Race:
    """A task, and when it is done.

    Attributes:
        title: in words.
        data: its folder below --data.
        options: of the problem, but for the learning rate.
        every: rounds between evaluations.
        timed_rounds: over a link, unless a whole training is asked for.
        target: as of timed_run.TimedClient.
        entrants: by name, the client, its settings, and the tuned learning rate.
        num_held_out: so many items of the test set decide, or None for all.
    """

    title: str
    data: str
    options: Mapping[str, Any]
    every: int
    timed_rounds: int
    target: float
    entrants: Mapping[str, tuple[str, Mapping[str, Any], float]]
    num_held_out: int | None = None

    @property
    def numel(self) -> int:
        """Elements of all parameters."""
        return _NUMEL[self.options["model"]]

    def lr_of(self, method: str) -> float:
        return 0.0 if method == ALONE else self.entrants[method][2]


def _ddp(hook: str, **settings: Any) -> dict[str, Any]:
    """AdamW behind a hook; see ddp_run.py."""
    plain = {
        "hook": hook, "num_bits": 3, "momentum": 0.0, "weight_decay": 1.0, "exempt_1d": False,
        "powersgd_rank": 1, "outer": "adamw", "outer_momentum": 0.0, "beta1": 0.9, "beta2": 0.99,
        "l2": 0.01,
    }  # fmt: skip
    return plain | settings


_VOTE = {"momentum": 0.9, "weight_decay": 0.99, "exempt_1d": True, "beta1": 0.0}


def _optimizer(num_bits: int, lr: float) -> tuple[str, Mapping[str, Any], float]:
    settings = {
        "num_bits": num_bits, "momentum": 0.9, "decay_min": 0.99, "decay_max": 0.99,
        "exempt_1d": True, "exempt_lr": lr * 2 ** (num_bits - 1),
    }  # fmt: skip
    return "optimizer", settings, lr


def _on_images(
    lr: float, vote_lr: float, one_bit_lr: float
) -> dict[str, tuple[str, Mapping[str, Any], float]]:
    """Who enters a race on images.

    Args:
        lr: of AdamW.
        vote_lr, one_bit_lr: of the vote of 3 bits, and of 1.
    """
    return {
        "float32": ("ddp", _ddp("none"), lr),
        "fp16": ("ddp", _ddp("fp16"), lr),
        "PowerSGD 1": ("ddp", _ddp("powersgd"), lr),
        "PowerSGD 2": ("ddp", _ddp("powersgd", powersgd_rank=2), lr),
        "vote, 3 bits": _optimizer(3, vote_lr),
        "vote, 1 bit": _optimizer(1, one_bit_lr),
    }


_LM = {
    "model": "gpt", "model_size": "small", "context": 64, "dataset": "text", "batch_size": 16,
    "epochs": 1, "steps": 1500, "lr_schedule": "cosine", "warmup": 0.25,
}  # fmt: skip
_MNIST = {
    "model": "vanilla_cnn", "model_size": "small", "context": 64, "dataset": "MNIST",
    "batch_size": 64, "epochs": 5, "steps": None, "lr_schedule": "cosine", "warmup": 0.1,
}  # fmt: skip
_LARGE = _MNIST | {"model": _WIDE, "batch_size": 32, "epochs": 1, "steps": 200}

RACES = {
    "lm": Race(
        "A transformer of 164 k parameters on Shakespeare, to a held-out loss of 1.75 nats",
        "text", _LM, 50, 45, -1.75,
        {
            "float32": ("ddp", _ddp("none"), 0.01),
            "fp16": ("ddp", _ddp("fp16"), 0.02),
            "PowerSGD 1": ("ddp", _ddp("powersgd"), 0.01),
            "PowerSGD 2": ("ddp", _ddp("powersgd", powersgd_rank=2), 0.01),
            "vote, 3 bits": ("ddp", _ddp("vote", **_VOTE), 0.003),
            "vote, 1 bit": ("ddp", _ddp("vote", num_bits=1, **_VOTE), 0.006),
        },
    ),
    "mnist": Race(
        "A CNN of 3.2 M parameters on MNIST, to 98.5 %",
        ".", _MNIST, 20, 25, 98.5,
        _on_images(0.004, 0.0012, 0.0012),
    ),
    "wide": Race(
        "A perceptron of 11.7 M parameters on MNIST, to 93 % (of 2,000 images)",
        ".", _LARGE, 5, 15, 93.0,
        _on_images(0.002, 0.0003, 0.0006),
        num_held_out=2000,
    ),
}  # fmt: skip


class Run(NamedTuple):
    """What makes a line of time_to_target.csv.

    Attributes:
        is_whole: whether it goes on to its target, instead of some rounds.
    """

    race: str
    rate: str
    method: str
    lr: float
    is_whole: bool


@dataclass(frozen=True)
class Row:
    """A line of time_to_target.csv: a training at its end or at its target, or some rounds of one.

    Attributes:
        is_whole: whether it went on to its target, or to its end without having reached it.
        is_reached: whether it was good enough.
        rounds: until then.
        timed_rounds: which took those seconds, and sent those megabytes.
        metric: percent or nats, of what is held out.
        day, where: of the measurement; see Provenance.
    """

    race: str
    rate: str
    method: str
    lr: float
    is_whole: bool
    is_reached: bool
    rounds: int
    timed_rounds: int
    seconds: float
    sent_mb: float
    metric: float
    day: str
    where: str

    @property
    def run(self) -> Run:
        return Run(self.race, self.rate, self.method, self.lr, self.is_whole)

    @property
    def is_tuned(self) -> bool:
        return self.lr == RACES[self.race].lr_of(self.method)

    @property
    def round_ms(self) -> float:
        return 1e3 * self.seconds / self.timed_rounds

    @property
    def round_mb(self) -> float:
        return self.sent_mb / self.timed_rounds


def race(one: Run, data: Path) -> Row:
    """
    Raises:
        RunError: a rank fails.
    """
    task = RACES[one.race]
    nothing: Mapping[str, Any] = {}
    client, settings, _ = task.entrants.get(one.method, ("alone", nothing, 0.0))
    problem = {
        **task.options, "lr": one.lr, "num_workers": _NUM_HOSTS, "seed": 0, "log_dir": "",
        "exp_name": "", "dataset_root": str((data / task.data).resolve()),
    }  # fmt: skip
    what = {
        "problem": problem, "client": client, "settings": settings,
        "every": task.every if one.is_whole else task.timed_rounds,
        "target": task.target if one.is_whole else -math.inf, "num_held_out": task.num_held_out,
    }  # fmt: skip
    try:
        with places(_NUM_HOSTS, link_of(one.rate)) as where:
            found = ask_ranks(where, _HERE / "timed_run.py", what)
    except LabError as error:
        raise RunError(f"{', '.join(map(str, one))}: {error}") from error
    rounds, seconds, sent_bytes, metric = found["notes"][-1]
    return Row(*one, found["is_reached"], rounds, found["timed_rounds"], round(seconds, 3),
               round(sent_bytes / 1e6, 3), round(metric, 4), *here_today())  # fmt: skip


@click.command(cls=SpreadingCommand)
@click.option("--data", type=PathOption(), default=Path("data"), show_default=True,
              help="Folder of MNIST and text.")  # fmt: skip
@click.option("--races", type=click.Choice(tuple(RACES)), multiple=True, default=tuple(RACES),
              show_default=True)  # fmt: skip
@click.option("--rates", multiple=True, default=(UNSHAPED, *RATES), show_default=True,
              help="Of each link and direction, as tc writes them; rounds are counted over the "
              "first.")  # fmt: skip
@click.option("--methods", type=click.Choice((ALONE, *RACES["lm"].entrants)), multiple=True,
              show_default="all")  # fmt: skip
@click.option("--whole", is_flag=True, help="Whole trainings over slow links, too.")
@click.option("--lr", "lrs", type=click.FloatRange(min=0, min_open=True), multiple=True,
              show_default="tuned", help="To be tried instead.")  # fmt: skip
@click.option(
    "--out", type=PathOption(file_okay=False), default=_OUT, show_default="docs/measurements"
)
def main(
    data: Path, races: Sequence[str], rates: Sequence[str], methods: Sequence[str], whole: bool,
    lrs: Sequence[float], out: Path,
) -> None:  # fmt: skip
    """Runs what is missing."""
    make_folder("--out", out)
    path = out / "time_to_target.csv"
    rows = read_rows(path, Row, "time_to_target.py")
    asked = runs(races, rates, methods, lrs, is_whole=whole)
    there = {row.run for row in rows}
    with (
        terminated_like_interrupted(),
        click.progressbar(
            [one for one in asked if one not in there], label="training", item_show_func=_shown
        ) as bar,
    ):
        for one in bar:
            rows.append(race(one, data))
            write_rows(path, Row, rows)
    machines = {
        name: machine_of(_NUM_HOSTS, RACES[name].numel, out)
        for name in dict.fromkeys(row.race for row in rows)
    }
    write_report(rows, machines, out / "time_to_target.md")


def runs(
    races: Sequence[str], rates: Sequence[str], methods: Sequence[str], lrs: Sequence[float],
    *, is_whole: bool,
) -> Iterator[Run]:  # fmt: skip
    """All that are asked for.

    Args:
        methods: those of a race, or none for all, and some rounds without communication.
        lrs: learning rates, or none for the tuned ones.
        is_whole: whether trainings over slow links go on to their target.
    """
    for name, rate in itertools.product(races, rates):
        task = RACES[name]
        for method in methods or (ALONE, *task.entrants):
            if method == ALONE:
                yield Run(name, rate, method, 0.0, is_whole=False)
                continue
            for lr in lrs or (task.lr_of(method),):
                yield Run(name, rate, method, lr, is_whole or rate == UNSHAPED)


def _shown(item: Run | None) -> str:
    return "" if item is None else ", ".join(map(str, item))


@dataclass(frozen=True)
class Result:
    """How far a method came, and what a round of it takes over a link.

    Attributes:
        counted: the training whose rounds count.
        timed: over the link.
    """

    counted: Row
    timed: Row

    @property
    def seconds(self) -> float:
        return self.counted.rounds * self.timed.round_ms / 1e3

    @property
    def sent_mb(self) -> float:
        return self.counted.rounds * self.timed.round_mb


def write_report(rows: Sequence[Row], machines: Mapping[str, Machine], path: Path) -> None:
    """A table for each race and rate.

    Args:
        rows: of all of them.
        machines: how fast each of the hosts is, by race.
        path: of the page.
    """
    parts = [_HEAD]
    tuned = {row.run: row for row in rows if row.is_tuned}
    for name, rate in dict.fromkeys((one.race, one.rate) for one in tuned if one.rate != UNSHAPED):
        alone = tuned.get(Run(name, rate, ALONE, 0.0, is_whole=False))
        parts += [
            f"## {RACES[name].title}: {rate}",
            _table(_results(tuned, name, rate), alone, machines[name]),
        ]
    parts.append(footer(tuned.values()))
    with atomic_write(path) as file:
        file.write(("\n\n".join(parts) + "\n").encode())


def _results(rows: Mapping[Run, Row], name: str, rate: str) -> dict[str, Result]:
    """By method, of those that have been counted and timed; a whole training is both."""
    found = {}
    for run, row in rows.items():
        if (run.race, run.rate) != (name, rate) or run.method == ALONE:
            continue
        counted = row if row.is_whole else rows.get(run._replace(rate=UNSHAPED, is_whole=True))
        if counted is not None:
            label = f"{run.method}, all of it" if row.is_whole else run.method
            found[label] = Result(counted, row)
    return found


def _table(results: Mapping[str, Result], alone: Row | None, machine: Machine) -> str:
    lines = []
    if alone is not None:
        lines.append([ALONE, *["-"] * 7, f"{alone.round_ms:,.0f}", "-", "-"])
    for label, one in results.items():
        ratios = [_ratio(results.get(other), one) for other in ("float32", FP16)]
        reached = "" if one.counted.is_reached else " (not reached)"
        lines.append([
            label, f"{one.counted.lr:g}", f"{one.counted.metric:g}{reached}",
            f"{one.counted.rounds:,}", f"{one.seconds:,.1f}", *ratios, f"{one.sent_mb:,.1f}",
            f"{one.timed.round_ms:,.0f}", *_of_the_gain(results, one, alone, machine),
        ])  # fmt: skip
    head = ["", "lr", "metric", "rounds", "seconds", "float32 / this", "fp16 / this", "MB",
            "ms a round", "allowed", "of the gain"]  # fmt: skip
    return markdown_table(head, lines)


def _of_the_gain(
    results: Mapping[str, Result], one: Result, alone: Row | None, machine: Machine
) -> list[str]:
    """What a round would take, and how much of what that saves over the race is saved."""
    allowed_ms = None if alone is None else allowed(one.timed, alone.round_ms, machine)
    if allowed_ms is None:
        return ["-", "-"]
    shown, sixteen = f"{allowed_ms:,.0f}", results.get(FP16)
    if sixteen is None or one is sixteen or not _are_reached(one, sixteen):
        return [shown, "-"]
    allowed_gain_s = sixteen.seconds - one.counted.rounds * allowed_ms / 1e3
    gain_s = sixteen.seconds - one.seconds
    return [shown, f"{gain_s / allowed_gain_s:.0%}" if allowed_gain_s > 0 else "-"]


def allowed(row: Row, alone_ms: float, machine: Machine) -> float | None:
    """Milliseconds of a round by the bytes and the computation; None for PowerSGD, of which there
    is no model."""
    link = links.Link(links.parse_rate(row.rate), _LATENCY_S)
    cluster = Cluster(_NUM_HOSTS, 1, link, link, machine, alone_ms / 1e3)
    numel = RACES[row.race].numel
    sizes = {"float32": 4, FP16: 2}
    if row.method in sizes:
        return all_reduce(cluster, numel, row.method, sizes[row.method]).step_s * 1e3
    if not row.method.startswith("vote"):
        return None
    num_bits = int(row.method.split()[1])
    exchange = chosen_by_auto(_NUM_HOSTS)
    return vote(cluster, numel, 1, num_bits, exchange).step_s * 1e3


def _are_reached(*results: Result) -> bool:
    return all(one.counted.is_reached for one in results)


def _ratio(other: Result | None, one: Result) -> str:
    """How many times sooner."""
    if other is None or not _are_reached(other, one):
        return "-"
    return f"{other.seconds / one.seconds:.2f}"


if __name__ == "__main__":
    execute(main, Path(sys.argv[0]).name)

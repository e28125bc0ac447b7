"""`compsgd predict`: what a step would take on a network that is not there."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from compsgd.comm.exchange_choice import chosen_by_auto
from compsgd.workers.commands.path_option import PICTURE, OutputFile, PathOption, write_json
from compsgd.workers.commands.spreading import CountRange, IntegerRange, SpreadingCommand, normalise
from compsgd.workers.data.datasets import IMAGE_FORMATS
from compsgd.workers.failures import UsageError
from compsgd.workers.prediction.calibration import calibrate, model_step_s
from compsgd.workers.prediction.links import Link, parse_rate, rate_text
from compsgd.workers.prediction.machine import USUAL, Machine, read_machine
from compsgd.workers.prediction.methods import EXCHANGES, Cluster
from compsgd.workers.prediction.prediction import (
    Gradients,
    Prediction,
    Vote,
    over_bandwidths,
    predict,
    votes,
)
from compsgd.workers.report.tables import format_table
from compsgd.workers.train.models import IMAGE_MODELS, build_model

_TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_MOST_WORKERS = 100_000
# Of what is measured: more than any cache holds, and seconds at the most.
_MOST_MEASURED = 12_000_000


class _Rate(click.ParamType):  # type: ignore[type-arg]
    name = "rate"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return parse_rate(str(value))
        except UsageError as error:
            self.fail(error.message, param, ctx)


class _Duration(click.ParamType):  # type: ignore[type-arg]
    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no duration: write 50us, 1ms or 1s", param, ctx)
        return float(found[1]) * _TIME_UNITS[found[2]]


@click.command(
    cls=SpreadingCommand,
    context_settings={"token_normalize_func": normalise, "max_content_width": 100},
)
@click.option("--model", type=click.Choice(IMAGE_MODELS), default="vanilla_cnn", show_default=True,
              help="Whose gradients are combined.")  # fmt: skip
@click.option("--dataset", type=click.Choice(tuple(IMAGE_FORMATS)), default="MNIST",
              show_default=True, help="The images that the model is made for.")  # fmt: skip
@click.option("--num_parameters", type=CountRange(min=1), default=None,
              help="So many elements in one tensor, instead of a model, as in 25M.")  # fmt: skip
@click.option("--num_workers", type=IntegerRange(2, _MOST_WORKERS), multiple=True,
              default=[2, 4, 8, 16], show_default=True,
              help="Numbers of workers, as in --num_workers 2 4.")  # fmt: skip
@click.option("--workers_per_host", type=IntegerRange(min=1), default=1, show_default=True,
              help="Those that share a host's link; divides each number of workers.")  # fmt: skip
@click.option("--num_bits", type=IntegerRange(1, 8), multiple=True, default=[1, 3],
              show_default=True, help="Bits of a level.")  # fmt: skip
@click.option("--exchange", type=click.Choice(tuple(EXCHANGES)), multiple=True,
              default=tuple(EXCHANGES), show_default=True, help="How votes travel.")  # fmt: skip
@click.option("--entropy_coding", type=bool, multiple=True, default=[False], show_default=True,
              help="Whether votes go through the entropy coder; or both, as in --entropy_coding "
              "false true.")  # fmt: skip
@click.option("--link", type=_Rate(), default="1gbit", show_default=True,
              help="Of a host, in either direction.")  # fmt: skip
@click.option("--latency", type=_Duration(), default="50us", show_default=True,
              help="Of that link, one way.")  # fmt: skip
@click.option("--inner_link", type=_Rate(), default="100gbit", show_default=True,
              help="Of each worker to the others of its host.")  # fmt: skip
@click.option("--inner_latency", type=_Duration(), default="5us", show_default=True,
              help="Of that link, one way.")  # fmt: skip
@click.option("--step", "step_s", type=_Duration(), default=None,
              help="Forward, backward and update without communication; measured with --calibrate "
              "and a model, else nothing: the exchange alone.")  # fmt: skip
@click.option("--calibrate", "calibrates", is_flag=True,
              help="Measure this machine first (seconds; let it do nothing else).")  # fmt: skip
@click.option("--batch_size", type=IntegerRange(min=2), default=64, show_default=True,
              help="Of the steps that are measured.")  # fmt: skip
@click.option("--machine", "machine_path", type=PathOption(dir_okay=False), default=None,
              help="With --calibrate what is measured is saved here, without it read.")  # fmt: skip
@click.option("--plot", type=PICTURE, default=None,
              help="Draw step time against bandwidth: .png, .pdf or .svg.")  # fmt: skip
@click.option("--json", "json_path", type=OutputFile(), default=None,
              help="Also write the figures here.")  # fmt: skip
def predict_command(**values: Any) -> None:
    """Predict a training step with DistributedDataParallel and each way to combine gradients.

    \b
    sent MB   by a worker in a step, as the ledger would count it
    step ms   forward, backward, coding and travelling, as far as they cannot overlap
    float32 / this    how many times as fast as with float32; the same for 16 bits
    pays <    the bandwidth of hosts' links below which a step is faster than with float32,
              and than with 16 bits; "always" where the model finds none

    The model and how far it is from what was measured: docs/predictions.md. A worker computes on
    one core of a CPU; of GPUs nothing is known here.
    """
    asked = votes(values["num_bits"], _exchanges(values), values["entropy_coding"])
    clusters = [_cluster(values, num_workers) for num_workers in values["num_workers"]]
    gradients, step_s = _gradients(values), values["step_s"] or 0.0
    machine = _machine(values, gradients)
    if values["calibrates"] and values["step_s"] is None and values["num_parameters"] is None:
        step_s = model_step_s(values["model"], values["dataset"], values["batch_size"])
    found = []
    for cluster in clusters:
        there = replace(cluster, machine=machine, compute_s=step_s)
        found.append((there, predict(there, gradients, asked)))
    click.echo(_headline(gradients, step_s, values))
    for cluster, predictions in found:
        taken = chosen_by_auto(cluster.num_workers)
        click.echo(f"\n{_place(cluster)}; auto takes {taken}\n")
        click.echo(_table(predictions))
    if values["json_path"] is not None:
        _write_json(values["json_path"], gradients, found)
    if values["plot"] is not None:
        _draw(values["plot"], gradients, asked, found[-1][0])


def _exchanges(values: dict[str, Any]) -> list[str]:
    """Those that differ: with a worker on each host there is one level."""
    has_levels = values["workers_per_host"] > 1
    found = [name for name in values["exchange"] if has_levels or name != "hierarchical"]
    return found or ["scatter_reduce"]


def _cluster(values: dict[str, Any], num_workers: int) -> Cluster:
    per_host = values["workers_per_host"]
    if num_workers % per_host:
        raise UsageError(
            f"--workers_per_host {per_host} does not divide --num_workers {num_workers}"
        )
    link = Link(values["link"], values["latency"])
    inner = Link(values["inner_link"], values["inner_latency"])
    return Cluster(num_workers, per_host, link, inner, USUAL, 0.0)


def _gradients(values: dict[str, Any]) -> Gradients:
    if values["num_parameters"] is not None:
        return Gradients(values["num_parameters"])
    parameters = list(
        build_model(values["model"], IMAGE_FORMATS[values["dataset"]], 0).parameters()
    )
    return Gradients(sum(one.numel() for one in parameters), len(parameters))


def _machine(values: dict[str, Any], gradients: Gradients) -> Machine:
    path = values["machine_path"]
    if values["calibrates"]:
        machine = calibrate(values["num_bits"], min(gradients.numel, _MOST_MEASURED))
        if path is not None:
            try:
                machine.save(path)
            except OSError as error:
                raise UsageError(f"--machine {path}: {error.strerror}") from error
        return machine
    machine = USUAL if path is None else read_machine(path)
    unknown = [bits for bits in values["num_bits"] if bits not in machine.votes]
    if unknown:
        raise UsageError(
            f"--num_bits {unknown[0]} is not among what --machine {path} has measured: "
            f"{', '.join(map(str, machine.votes))}"
        )
    return machine


def _headline(gradients: Gradients, step_s: float, values: dict[str, Any]) -> str:
    link = rate_text(values["link"])
    step = f"{step_s * 1e3:.1f} ms of forward and backward" if step_s else "the exchange alone"
    is_usual = not values["calibrates"] and values["machine_path"] is None
    machine = "; coding as on a server of 2023, --calibrate measures yours" if is_usual else ""
    return f"{gradients.numel:,} parameters, {link} a host, {step}{machine}"


def _place(cluster: Cluster) -> str:
    per_host = cluster.workers_per_host
    if per_host == 1:
        return f"{cluster.num_workers} workers, a host each"
    return f"{cluster.num_workers} workers on {cluster.num_hosts} hosts"


def _table(predictions: Sequence[Prediction]) -> str:
    head = [
        "",
        "sent MB",
        "step ms",
        "float32 / this",
        "16 bits / this",
        "pays <",
        "than 16 bits <",
    ]
    rows = [
        [
            one.method.name,
            f"{one.method.sent_bytes / 1e6:,.2f}",
            f"{one.method.step_s * 1e3:,.1f}",
            f"{one.over_float32:.2f}",
            f"{one.over_sixteen_bits:.2f}",
            *map(_bandwidth, (one.pays_below, one.pays_below_sixteen_bits)),
        ]
        for one in predictions
    ]
    return format_table(head, rows)


def _bandwidth(bits_per_s: float | None) -> str:
    if bits_per_s is None:
        return "-"
    if bits_per_s == math.inf:
        return "always"
    return rate_text(bits_per_s) if bits_per_s else "never"


def _write_json(
    path: Path, gradients: Gradients, found: Sequence[tuple[Cluster, Sequence[Prediction]]]
) -> None:
    report = {
        **asdict(gradients),
        "clusters": [
            {**asdict(cluster), "predictions": [_finite(asdict(one)) for one in predictions]}
            for cluster, predictions in found
        ],
    }
    write_json(path, report)


def _finite(found: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: "always" stands for it."""
    return {name: "always" if value == math.inf else value for name, value in found.items()}


def _draw(path: Path, gradients: Gradients, asked: Sequence[Vote], cluster: Cluster) -> None:
    from compsgd.plots import bandwidth_figure, save_figure

    lines = over_bandwidths(cluster, gradients, asked)
    title = f"{gradients.numel:,} parameters, {_place(cluster)}"
    try:
        save_figure(bandwidth_figure(lines, title=title), path)
    except OSError as error:
        raise UsageError(f"--plot {path}: {error.strerror}") from error
    click.echo(f"\nplot: {path}")

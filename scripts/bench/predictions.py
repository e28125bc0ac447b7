"""How far `compsgd predict` is from what network.py has measured.

sudo python scripts/bench/predictions.py

Measures, once for each number of hosts and each model in network.csv, how fast a rank is while all
others compute, too, as hosts here share the cores of one machine; predicts every cell from that,
from the step without communication, and from what the entropy coder has left; and writes
machines/<N>_<elements>.json and predictions.md beside network.csv.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from csv_rows import read_rows
from netlab import LabError, Link, answer, ask_ranks, is_asked, places
from network_report import in_order
from network_rows import UNSHAPED, Row
from steps import ALONE, CODED, EXCHANGES, MODELS, VOTE_BITS, vote_name

from compsgd.comm.exchange_choice import chosen_by_auto
from compsgd.files import atomic_write
from compsgd.workers.bench.provenance import footer
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.path_option import PathOption
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.prediction import links
from compsgd.workers.prediction.calibration import calibrate
from compsgd.workers.prediction.machine import Machine, machine_from, read_machine
from compsgd.workers.prediction.methods import Cluster, Method, all_reduce, vote
from compsgd.workers.prediction.prediction import Gradients
from compsgd.workers.report.tables import markdown_table

_OUT = Path(__file__).resolve().parents[2] / "docs" / "measurements"
_LATENCY_S = 50e-6
# Faster than any machine sends: what is unshaped is bounded by its processors.
_UNSHAPED_BITS_PER_S = 1e12
_GOOD = 0.2
_HEAD = """# How far predictions are from measurements

Made by `sudo python scripts/bench/predictions.py` from network.csv and machines/, which say how
fast each of N ranks is while all compute at once on this machine's cores, on vectors of the model's
length. Each cell has the predicted over the measured time of a step (or of an exchange alone),
less 1, in percent; in bold where it is more than 20 away.
"""


def measure(numel: int) -> dict[str, Any]:
    """In a rank."""
    return calibrate(VOTE_BITS, numel).as_dict()


def machine_of(num_hosts: int, numel: int, folder: Path) -> Machine:
    """Measured, unless it is there.

    Args:
        num_hosts: that compute at once.
        numel: elements of a vote: what fits into a cache is faster.
        folder: of network.csv.

    Raises:
        RunError: a rank fails.
    """
    path = machine_path(num_hosts, numel, folder)
    if path.exists():
        return read_machine(path)
    try:
        with places(num_hosts, Link()) as where:
            machine = machine_from(ask_ranks(where, Path(__file__).resolve(), {"numel": numel}))
    except LabError as error:
        raise RunError(f"{num_hosts} hosts: {error}") from error
    path.parent.mkdir(exist_ok=True)
    machine.save(path)
    return machine


def machine_path(num_hosts: int, numel: int, folder: Path) -> Path:
    return folder / "machines" / f"{num_hosts}_{numel}.json"


def predicted(
    row: Row, gradients: Gradients, machine: Machine, alone_ms: float, uncoded_bytes: float | None
) -> Method | None:
    """None for what there is no model of: PowerSGD, and a step without communication.

    Args:
        row: which has been measured.
        gradients: of its model.
        machine: of its number of hosts.
        alone_ms: of a step without communication.
        uncoded_bytes: what would have been sent without an entropy coder, if that is known.
    """
    rate = _UNSHAPED_BITS_PER_S if row.rate == UNSHAPED else row.bits_per_s
    link = links.Link(rate, _LATENCY_S)
    cluster = Cluster(row.num_hosts, 1, link, link, machine, alone_ms / 1e3)
    sizes = {"float32": 4, "bf16": 2, "fp16": 2}
    if row.method in sizes:
        return all_reduce(cluster, gradients.numel, row.method, sizes[row.method])
    found = _VOTES.get(row.method)
    if found is None:
        return None
    num_bits, exchange = found
    share = None
    if exchange == CODED:
        if uncoded_bytes is None:
            return None
        exchange, share = chosen_by_auto(row.num_hosts), row.sent_bytes / uncoded_bytes
    return vote(
        cluster, gradients.numel, gradients.num_tensors, num_bits, exchange, coded_share=share
    )


_VOTES = {vote_name(bits, one): (bits, one) for bits in VOTE_BITS for one in (*EXCHANGES, CODED)}


def places_of(rows: Sequence[Row], gradients: Mapping[str, Gradients]) -> list[tuple[int, int]]:
    """Numbers of hosts, and elements."""
    return list(dict.fromkeys((row.num_hosts, gradients[row.model].numel) for row in rows))


def gradients_of(models: Sequence[str]) -> dict[str, Gradients]:
    found = {}
    for name in models:
        model, _, _ = MODELS[name](torch.Generator())
        sizes = [one.numel() for one in model.parameters()]
        found[name] = Gradients(sum(sizes), len(sizes))
    return found


def errors(
    rows: Sequence[Row],
    gradients: Mapping[str, Gradients],
    machines: Mapping[tuple[int, int], Machine],
) -> dict[Row, float]:
    """Predicted over measured, less 1, of every row that there is a model of.

    Args:
        rows: which have been measured.
        gradients: by model.
        machines: by number of hosts and elements.
    """
    by_place = {(*row.cell, row.kind, row.method): row for row in rows}
    found = {}
    for row in rows:
        alone = by_place.get((*row.cell, row.kind, ALONE))
        if alone is None:
            continue
        uncoded = by_place.get((*row.cell, row.kind, _uncoded_name(row)))
        uncoded_bytes = None if uncoded is None else uncoded.sent_bytes
        own = gradients[row.model]
        one = predicted(row, own, machines[row.num_hosts, own.numel], alone.ms, uncoded_bytes)
        if one is not None:
            found[row] = one.step_s * 1e3 / row.ms - 1
    return found


def _uncoded_name(row: Row) -> str:
    num_bits, _ = _VOTES.get(row.method, (0, ""))
    return vote_name(num_bits, chosen_by_auto(row.num_hosts))


def write_report(found: Mapping[Row, float], path: Path) -> None:
    near = [abs(error) <= _GOOD for error in found.values()]
    parts = [
        _HEAD,
        f"{sum(near)} of {len(near)} cells are within {_GOOD:.0%}; half of all are within "
        f"{median(map(abs, found.values())):.0%}.",
    ]
    for model, num_hosts, kind in dict.fromkeys(
        (row.model, row.num_hosts, row.kind) for row in in_order(found)
    ):
        here = {row: error for row, error in found.items()
                if (row.model, row.num_hosts, row.kind) == (model, num_hosts, kind)}  # fmt: skip
        parts += [f"## {model}, {num_hosts} hosts: {kind}", _table(here)]
    parts.append(footer(found))
    with atomic_write(path) as file:
        file.write(("\n\n".join(parts) + "\n").encode())


def _table(found: Mapping[Row, float]) -> str:
    rates = list(dict.fromkeys(row.rate for row in found))
    by_place = {(row.method, row.rate): error for row, error in found.items()}
    methods = dict.fromkeys(row.method for row in found)
    rows = [[method, *(_shown(by_place.get((method, rate))) for rate in rates)]
            for method in methods]  # fmt: skip
    return markdown_table(["", *rates], rows)


def _shown(error: float | None) -> str:
    if error is None:
        return "-"
    text = f"{100 * error:+.0f}"
    return f"**{text}**" if abs(error) > _GOOD else text


@click.command()
@click.option("--out", type=PathOption(file_okay=False), default=_OUT,
              show_default="docs/measurements",
              help="Where network.csv is.")  # fmt: skip
def main(out: Path) -> None:
    """Measures what is missing of the machine, and writes the table."""
    rows = read_rows(out / "network.csv", Row, "network.py")
    if not rows:
        raise UsageError(f"{out / 'network.csv'}: there is none; run network.py first")
    gradients = gradients_of(list(dict.fromkeys(row.model for row in rows)))
    machines = {place: machine_of(*place, out) for place in places_of(rows, gradients)}
    write_report(errors(rows, gradients, machines), out / "predictions.md")


if __name__ == "__main__":
    if is_asked():
        answer(measure)
    else:
        execute(main, Path(sys.argv[0]).name)

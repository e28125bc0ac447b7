"""Where compression pays: steps over links of every rate, for several models and numbers of hosts.

sudo python scripts/bench/network.py

Hosts are network namespaces on this machine (netlab.py), which share its cores. For each rate,
number of hosts and model: a whole training step, and the exchange alone (the same parameters
without the model's work), with DistributedDataParallel in float32, its bf16 and fp16 hooks,
PowerSGD, the vote of 1 to 8 bits by either exchange, and through the entropy coder. Writes
network.csv, network.md and a figure for each model as it goes; what is there is not measured again,
and the same command goes on after an interruption.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from csv_rows import read_rows, write_rows
from netlab import LabError, ask_ranks, places
from network_report import write_report
from network_rows import UNSHAPED, Cell, Row, link_of
from steps import ALONE, CODED, EXCHANGE, EXCHANGES, KINDS, MODELS, ONE_BUCKET, VOTE_BITS, vote_name

from compsgd.workers.bench.provenance import here_today
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.path_option import PathOption, make_folder
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.failures import RunError, UsageError, terminated_like_interrupted

RATES = ("10mbit", "100mbit", "1gbit", "10gbit", UNSHAPED)
METHODS = (
    ALONE, "float32", "bf16", "fp16", f"PowerSGD 1{ONE_BUCKET}", f"PowerSGD 2{ONE_BUCKET}",
    *(vote_name(num_bits, exchange) for exchange in EXCHANGES for num_bits in VOTE_BITS),
    *(vote_name(num_bits, CODED) for num_bits in VOTE_BITS[1:]),
)  # fmt: skip
# Below it a step of the largest model takes minutes: one exchange says all.
_SLOW_BITS_PER_S = 50e6
_HERE = Path(__file__).resolve().parent
_OUT = _HERE.parents[1] / "docs" / "measurements"


def measure(cell: Cell, kind: str, methods: Sequence[str], budget_s: float) -> list[Row]:
    """
    Raises:
        RunError: a rank fails.
        UsageError: there can be no such network.
    """
    what = {"model": cell.model, "methods": methods, "kinds": [kind], "in_turns": False,
            "num_steps": 15, "budget_s": budget_s}  # fmt: skip
    try:
        with places(cell.num_hosts, link_of(cell.rate)) as where:
            found = ask_ranks(where, _HERE / "steps.py", what)
    except LabError as error:
        raise RunError(f"{cell.num_hosts} hosts, {cell.rate}: {error}") from error
    here = here_today()
    return [
        Row(*cell, kind, one["method"], round(one["median_s"] * 1e3, 3), one["num_steps"],
            round(one["sent_bytes"]), *here)
        for one in found
    ]  # fmt: skip


def missing(cells: Sequence[Cell], rows: Sequence[Row]) -> Iterator[tuple[Cell, str, list[str]]]:
    """What is still to be measured, in one go each."""
    there = {(row.cell, row.kind, row.method) for row in rows}
    for cell in cells:
        is_slow = link_of(cell.rate).bits_per_s < _SLOW_BITS_PER_S
        for kind in (EXCHANGE,) if is_slow else KINDS:
            methods = [method for method in METHODS if (cell, kind, method) not in there]
            if methods:
                yield cell, kind, methods


@click.command(cls=SpreadingCommand)
@click.option("--rates", multiple=True, default=RATES, show_default=True,
              help="Of each link and direction, as tc writes them.")  # fmt: skip
@click.option("--num_hosts", type=click.IntRange(min=2), multiple=True, default=[2, 4, 8],
              show_default=True)  # fmt: skip
@click.option("--models", type=click.Choice(tuple(MODELS)), multiple=True, default=tuple(MODELS),
              show_default=True)  # fmt: skip
@click.option("--budget", "budget_s", type=click.FloatRange(min=0), default=5.0,
              show_default=True,
              help="Seconds for the steps of a method; one is always taken.")  # fmt: skip
@click.option("--report_only", is_flag=True, help="Only write table and figures of what is there.")
@click.option(
    "--out", type=PathOption(file_okay=False), default=_OUT, show_default="docs/measurements"
)
def network(
    rates: Sequence[str], num_hosts: Sequence[int], models: Sequence[str], budget_s: float,
    report_only: bool, out: Path,
) -> None:  # fmt: skip
    """Measures what is missing."""
    try:
        cells = [Cell(*one) for one in itertools.product(models, num_hosts, rates)]
        todo = list(missing(cells, []))
    except LabError as error:
        raise UsageError(str(error)) from error
    make_folder("--out", out)
    rows = read_rows(out / "network.csv", Row, "network.py")
    todo = [] if report_only else list(missing(cells, rows))
    with (
        terminated_like_interrupted(),
        click.progressbar(todo, label="measuring", item_show_func=_shown) as bar,
    ):
        for cell, kind, methods in bar:
            rows += measure(cell, kind, methods, budget_s)
            write_rows(out / "network.csv", Row, rows)
    write_report(rows, out)


def _shown(item: tuple[Cell, str, list[str]] | None) -> str:
    return "" if item is None else f"{item[0].model}, {item[0].num_hosts} x {item[0].rate}"


if __name__ == "__main__":
    execute(network, "network.py")

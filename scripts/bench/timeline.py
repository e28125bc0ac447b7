"""What a vote does when: in one piece, and in chunks of which one is coded while others travel.

sudo python scripts/bench/timeline.py --link 1gbit --num_hosts 2

One exchange of a gradient after the other between network namespaces (netlab.py), with one chunk
and with several in turns: prints what each takes beside the bytes' own time on the link, and draws
the median one of each, as rank 0 has seen it.
"""

import functools
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from netlab import LabError, Link, answer, ask_ranks, is_asked, places

from compsgd import VoteAggregator
from compsgd.codec.numba_codec import NumbaCodec
from compsgd.comm import ScatterReduceExchange
from compsgd.comm.traffic.kernel_counters import count_bytes, open_sockets
from compsgd.plots import save_figure
from compsgd.plots.style import in_paper_style, new_figure
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.ballot import BallotBox
from compsgd.voting.tally import BallotTally
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.path_option import PICTURE
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.failures import UsageError
from compsgd.workers.report.tables import markdown_table

_WARM_UP = 3
_NEAR_MS = 0.3
_OUT = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "timeline.png"
# Of what is drawn, from top to bottom, with its colour.
_TRACKS = {
    "encode": "#0072B2",
    "ballots travel": "#56B4E9",
    "count": "#D55E00",
    "results travel": "#E69F00",
    "decode": "#009E73",
}

# (track, start, end) in seconds from the beginning of an exchange.
Event = tuple[str, float, float]


class Clock:
    """Notes when parts of an exchange begin and end."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._began = 0.0

    def start(self) -> None:
        self.events = []
        self._began = time.perf_counter()

    @contextmanager
    def noting(self, track: str) -> Iterator[None]:
        began = self.now()
        yield
        self.events.append((track, began, self.now()))

    def now(self) -> float:
        return time.perf_counter() - self._began

    def timed(self, owner: Any, name: str, track: str) -> None:
        """Notes every call of a method."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def method(*args: Any) -> Any:
            with self.noting(track):
                return original(*args)

        setattr(owner, name, method)

    def timed_travel(self, owner: Any, name: str, track: str) -> None:
        """Notes, of a method that returns what waits, from its call to the end of the wait."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def method(*args: Any) -> Callable[[], Any]:
            began, wait = self.now(), original(*args)

            def waited() -> Any:
                found = wait()
                self.events.append((track, began, self.now()))
                return found

            return waited

        setattr(owner, name, method)


def watch(clock: Clock) -> None:
    clock.timed(LevelAggregator, "_encode", "encode")
    clock.timed_travel(BallotBox, "send", "ballots travel")
    clock.timed(BallotTally, "count", "count")
    clock.timed_travel(ScatterReduceExchange, "collect", "results travel")
    for name in ("level_magnitudes", "decode"):
        clock.timed(NumbaCodec, name, "decode")


def exchanges(
    numel: int, num_tensors: int, num_bits: int, num_chunks: Sequence[int | None], repeats: int
) -> list[dict[str, Any]]:
    """In a rank: of each number of chunks, all its exchanges."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", timeout=timedelta(minutes=10))
    generator = torch.Generator().manual_seed(dist.get_rank())
    parameters = [torch.zeros(numel // num_tensors, requires_grad=True) for _ in range(num_tensors)]
    gradients = [torch.randn(one.shape, generator=generator) for one in parameters]
    clock = Clock()
    watch(clock)
    settings = {"num_bits": num_bits, "scale": "mean_abs", "momentum": 0.9}
    aggregators = [VoteAggregator(parameters, num_chunks=one, **settings) for one in num_chunks]
    found: list[dict[str, Any]] = [{"runs": [], "sent_bytes": 0} for _ in aggregators]
    for round_ in range(_WARM_UP + repeats):
        for aggregator, its in zip(aggregators, found, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            sockets = open_sockets()
            before = count_bytes(sockets).sent_bytes
            dist.barrier()
            clock.start()
            aggregator.aggregate()
            dist.barrier()
            if round_ >= _WARM_UP:
                its["runs"].append({"seconds": clock.now(), "events": clock.events})
            its["sent_bytes"] = count_bytes(sockets).sent_bytes - before
    dist.destroy_process_group()
    return found


def median_run(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]


def table(names: Sequence[str], found: Sequence[dict[str, Any]], bits_per_s: float) -> str:
    rows = []
    for name, its in zip(names, found, strict=True):
        ms = statistics.median(run["seconds"] for run in its["runs"]) * 1e3
        bytes_ms = its["sent_bytes"] * 8 / bits_per_s * 1e3
        rows.append([name, f"{ms:.1f}", f"{bytes_ms:.1f}", f"{ms / bytes_ms:.2f}"])
    return markdown_table(["exchange", "ms", "bytes ms", "exchange / bytes"], rows)


@in_paper_style
def draw(names: Sequence[str], found: Sequence[dict[str, Any]], title: str) -> Figure:
    """An axis for each number of chunks, one below the other."""
    figure, axes = new_figure(len(found), 1, title)
    runs = [median_run(its["runs"]) for its in found]
    seen = {track for run in runs for track, _, _ in run["events"]}
    tracks = [track for track in _TRACKS if track in seen]
    longest_ms = max(run["seconds"] for run in runs) * 1e3
    for axis, name, run in zip(axes, names, runs, strict=True):
        _draw_run(axis, run["events"], tracks)
        axis.set_xlim(0, longest_ms * 1.02)
        axis.set_title(name)
    axes[-1].set_xlabel("ms")
    return figure


def _draw_run(axis: Axes, events: Sequence[Event], tracks: Sequence[str]) -> None:
    for place, track in enumerate(tracks):
        bars = sorted((start * 1e3, end * 1e3) for name, start, end in events if name == track)
        # Those that travel queue on one link: each is on its way when those before are there.
        bars = _one_behind_the_other(bars) if "travel" in track else _joined(bars)
        lengths = [(start, end - start) for start, end in bars]
        style = {"facecolor": _TRACKS[track], "edgecolor": "white", "linewidth": 0.3}
        axis.broken_barh(lengths, (place - 0.4, 0.8), label=track, **style)
    axis.set_yticks(range(len(tracks)), tracks)
    axis.invert_yaxis()


def _one_behind_the_other(bars: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found, free_at = [], 0.0
    for start, end in bars:
        found.append((min(max(start, free_at), end), end))
        free_at = end
    return found


def _joined(bars: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """What is too near to be told apart is one."""
    found: list[tuple[float, float]] = []
    for start, end in bars:
        if found and start - found[-1][1] < _NEAR_MS:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


@click.command(cls=SpreadingCommand)
@click.option("--link", default="1gbit", show_default=True, metavar="RATE", help="As tc writes it.")
@click.option("--num_hosts", type=click.IntRange(min=2), default=2, show_default=True)
@click.option("--numel", type=click.IntRange(min=1), default=11_700_000, show_default=True)
@click.option("--num_tensors", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--num_bits", type=click.IntRange(1, 8), default=3, show_default=True)
@click.option("--num_chunks", type=click.IntRange(min=1), multiple=True, default=(),
              show_default="one, and as many as are taken by default")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--out", type=PICTURE, default=_OUT,
              show_default="docs/measurements/timeline.png")  # fmt: skip
def timeline(
    link: str, num_hosts: int, numel: int, num_tensors: int, num_bits: int,
    num_chunks: tuple[int, ...], repeats: int, out: Path,
) -> None:  # fmt: skip
    """Measures, prints a table, and draws."""
    chunks: list[int | None] = list(num_chunks) or [1, None]
    names = ["chunks by size" if one is None else f"{one} chunk{'s' * (one > 1)}" for one in chunks]
    what = {"numel": numel, "num_tensors": num_tensors, "num_bits": num_bits, "num_chunks": chunks,
            "repeats": repeats}  # fmt: skip
    try:
        shape = Link(link)
        with places(num_hosts, shape) as where:
            found = ask_ranks(where, Path(__file__), what)
    except LabError as error:
        raise UsageError(str(error)) from error
    title = f"{numel / 1e6:.3g} M elements, {num_bits} bits, {num_hosts} hosts, {link}"
    click.echo(f"{title}\n\n{table(names, found, shape.bits_per_s)}")
    click.echo(f"figure: {save_figure(draw(names, found, title), out)}", err=True)


if __name__ == "__main__":
    if is_asked():
        answer(exchanges)
    else:
        execute(timeline, "timeline.py")

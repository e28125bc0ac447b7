"""What one hostile process of three can do to the others, in training and behind the hook.

python scripts/robustness/hostile_peers.py

Each mode is tried with `launch.py` and with a DistributedDataParallel whose gradients go through
the hook, two honest ranks and a hostile one. It must be found out, with a line of ours that says
what is wrong, or be outvoted: then the honest ones end with the same finite weights. Exits with 1
if in any mode they hang, differ, or end by a traceback where lines are promised.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import click
from hostile_modes import MODES, RANK, TRIED, Mode

from compsgd.comm.group.hosted_store import LOOPBACK, host_store
from compsgd.workers.report.tables import markdown_table

_HERE = Path(__file__).resolve().parent
_NUM_RANKS = 3
_HONEST = [rank for rank in range(_NUM_RANKS) if rank != RANK]
_TIMEOUT_S = 8
_LIMIT_S = 120.0
_TRAINING = [
    "launch.py", "--model", "mlp", "--epochs", "1", "--batch_size", "32", "--threads", "1",
    "--compile", "off", "--num_workers", str(_NUM_RANKS), "--timeout", str(_TIMEOUT_S),
    "--check_every", "2", "--momentum", "0.9", "--exempt_1d", "true",
]  # fmt: skip
# What gloo itself does to a process, of which nothing of ours can say more.
_ABORTED = -6


@dataclass(frozen=True)
class Ended:
    """How a rank ended; None as exit code where it had to be killed."""

    exit_code: int | None
    output: str

    @property
    def line(self) -> str:
        """Of an error of ours, wherever it stands."""
        errors = re.findall(r"(?:^Error: |\w*(?:PeerError|CollectiveError|DataError): )(.*)",
                            self.output, re.MULTILINE)  # fmt: skip
        return errors[-1] if errors else ""

    @property
    def last_line(self) -> str:
        """Of a traceback, too."""
        return self.output.strip().rpartition("\n")[2]

    @property
    def weights(self) -> str:
        found = re.findall(r"^weights (.*)$", self.output, re.MULTILINE)
        return found[-1] if found else ""


def _try(mode: Mode, client: str) -> list[str]:
    """A row: what was tried with whom, and what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        options = [*_TRAINING, "--exchange", mode.exchange, "--log_dir", folder, "--exp_name", "x",
                   "--verify_fraction", str(float(mode.verifies))]  # fmt: skip
        command = options if client == "launch.py" else ["hook"]
        with _started([mode.name, *command], Path(folder)) as processes:
            deadline = time.monotonic() + _LIMIT_S
            codes = [_wait(process, deadline) for process in processes]
        outputs = [(Path(folder) / f"{rank}.log").read_text(errors="replace")
                   for rank in range(_NUM_RANKS)]  # fmt: skip
        if TRIED not in outputs[RANK]:
            last = outputs[RANK].strip().rpartition("\n")[2]
            return [mode.name, client, "NOT TRIED", f"the hostile rank did what it should: {last}"]
        outputs[RANK] = outputs[RANK].replace(f"{TRIED}\n", "")
        ended = [Ended(*pair) for pair in zip(codes, outputs, strict=True)]
        return [mode.name, client, *_verdict(ended, client)]


def _verdict(ended: Sequence[Ended], client: str) -> tuple[str, str]:
    """What the honest ranks came to, and their words; a rank that fails may say why for all."""
    honest, hostile = [ended[rank] for rank in _HONEST], ended[RANK]
    words = "; ".join(dict.fromkeys(one.line for one in honest if one.line))
    codes = {one.exit_code for one in honest}
    if None in codes:
        return "HANGS", words
    if codes == {0}:
        if len({one.weights for one in honest}) > 1:
            return "DIFFER", words
        return ("NOT FINITE" if "not finite" in honest[0].weights else "outvoted"), words
    if 0 in codes:
        return "ONE GOES ON", words
    if client == "launch.py" and any("Traceback" in one.output for one in honest):
        return "TRACEBACK", words
    if words:
        return "found out", words
    if client == "launch.py" and hostile.exit_code == 1 and hostile.last_line:
        return "tells on itself", hostile.last_line
    return ("ended by gloo" if _ABORTED in codes else "NO WORD"), words


_CLIENTS = ("launch.py", "hook")
_FINE = ("found out", "outvoted", "tells on itself", "ended by gloo")


@contextlib.contextmanager
def _started(arguments: list[str], folder: Path) -> "Iterator[list[subprocess.Popen[bytes]]]":
    """All ranks; none outlives the context."""
    store = host_store()
    processes = []
    try:
        for rank in range(_NUM_RANKS):
            variables = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(_NUM_RANKS),
                "LOCAL_WORLD_SIZE": str(_NUM_RANKS), "MASTER_ADDR": LOOPBACK,
                "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            command = [sys.executable, str(_HERE / "hostile_rank.py"), *arguments]
            with (folder / f"{rank}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log)
                )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(max(0.0, deadline - time.monotonic()))
    return None


def _by_client(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """A row for each mode, with what came of it against each client."""
    results = {(mode, client): result for mode, client, result, _ in rows}
    modes = dict.fromkeys(row[0] for row in rows)
    return [[mode, *(results.get((mode, one), "-") for one in _CLIENTS)] for mode in modes]


@click.command()
@click.option("--only", default="*", show_default=True, metavar="PATTERN", help="Modes.")
@click.option("--client", type=click.Choice(_CLIENTS), default=None)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True)
def main(only: str, client: str | None, jobs: int) -> None:
    """Prints a row for each mode and client."""
    cases = [
        (mode, one)
        for mode in MODES
        if fnmatch(mode.name, only)
        for one in mode.clients
        if client in (None, one)
    ]
    with ThreadPoolExecutor(jobs) as pool:
        rows = []
        for row in pool.map(lambda case: _try(*case), cases):
            rows.append(row)
            click.echo(" | ".join(cell[:150] for cell in row), err=True)
    click.echo(markdown_table(["attempted", *_CLIENTS], _by_client(rows)))
    bad = sum(row[2] not in _FINE for row in rows)
    click.echo(f"\n{len(rows) - bad} of {len(rows)} as they should be")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

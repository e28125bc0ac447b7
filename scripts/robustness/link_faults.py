"""What becomes of a run over three machines when a link fails: who ends when, saying what, and
whether the others' machines can go on with it.

sudo python scripts/robustness/link_faults.py

The machines are network namespaces on this one, so it needs Linux, root, and the commands ip and
tc. Each fault hits a run of `launch.py`, and one of DistributedDataParallel with the hook. Exits
with 1 if any row is not as it should be.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
sys.path.insert(0, str(_HERE.parent / "bench"))

from netlab import INTERFACE, Host, LabError, Link, Rendezvous, network, run  # noqa: E402

from compsgd.workers.report.tables import markdown_table  # noqa: E402

_NUM_RANKS, _NUM_WORKERS = 3, 6
_PORT = 29500
_TIMEOUT_S = 8
_ERROR = re.compile(r"(\[rank\d\]: )?[\w.]*Error: ")
# From the fault to the end of the last process.
_LIMIT_S = _TIMEOUT_S + 10
_OUTAGE_S, _SLOW_S = 5, 20
_LINK = Link("1gbit")
_PATIENCE_S = 300
_TRAINING = [
    "--model", "mlp", "--epochs", "40", "--batch_size", "16", "--threads", "1", "--compile", "off",
    "--num_workers", str(_NUM_WORKERS), "--timeout", str(_TIMEOUT_S), "--checkpoint_every", "20",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """
    Attributes:
        name: for the table.
        victim: the rank whose link it hits.
        strike: makes it, on the victim's host.
        heal: takes it back.
        is_survived: whether the run is to go on as if nothing had happened.
    """

    name: str
    victim: int
    strike: Callable[[Host], None]
    heal: Callable[[Host], None]
    is_survived: bool = False


def _down(host: Host) -> None:
    run("ip", "-n", host.namespace, "link", "set", INTERFACE, "down")


def _up(host: Host) -> None:
    run("ip", "-n", host.namespace, "link", "set", INTERFACE, "up")


def _outage(host: Host) -> None:
    _down(host)
    time.sleep(_OUTAGE_S)
    _up(host)


_LOSING = ("root", "bfifo", "limit", "1")


def _mute(host: Host) -> None:
    """Nothing leaves any more; everything still arrives."""
    run("tc", "-n", host.namespace, "qdisc", "replace", "dev", INTERFACE, *_LOSING)


def _deafen(host: Host) -> None:
    """Nothing arrives any more; everything still leaves."""
    run("tc", "qdisc", "replace", "dev", host.outer, *_LOSING)


def _slow_for_a_while(host: Host) -> None:
    Link("100kbit").shape(INTERFACE, host.namespace)
    time.sleep(_SLOW_S)
    _as_before(host)


def _as_before(host: Host) -> None:
    host.shape(_LINK)


FAULTS = (
    Fault("link of rank 2 down", 2, _down, _up),
    Fault("link of rank 1 down", 1, _down, _up),
    Fault("link of rank 0 (the store's) down", 0, _down, _up),
    Fault("rank 2 is not heard", 2, _mute, _as_before),
    Fault("rank 2 hears nothing", 2, _deafen, _as_before),
    Fault("rank 0 (the store's) is not heard", 0, _mute, _as_before),
    Fault(f"link of rank 1 down for {_OUTAGE_S} s", 1, _outage, _up, is_survived=True),
    Fault(
        f"link of rank 2 at 100 kbit/s for {_SLOW_S} s",
        2,
        _slow_for_a_while,
        _as_before,
        is_survived=True,
    ),
)


@dataclass(frozen=True)
class Ended:
    """How a rank ended: after how long, with which exit code, and its last line."""

    seconds: float
    exit_code: int
    line: str


@dataclass(frozen=True)
class Outcome:
    """What a fault did to a run.

    Attributes:
        ended: by rank, in words for the table.
        said: of each rank that failed, the line that it ended with.
        after: what became of the run.
        is_right: whether all of it is as promised.
    """

    fault: Fault
    client: str
    ended: str
    said: tuple[str, ...]
    after: str
    is_right: bool

    def __str__(self) -> str:
        lines = "; ".join(dict.fromkeys(line[:110] for line in self.said))
        mark = "" if self.is_right else "NOT AS IT SHOULD BE: "
        return f"{mark}{self.fault.name} | {self.client} | {self.ended} | {lines} | {self.after}"


class Machines:
    """Three hosts, on which ranks are started."""

    def __init__(self, hosts: Sequence[Host], folder: Path) -> None:
        self._hosts = hosts
        self._folder = folder
        self._port = _PORT

    def strike(self, fault: Fault) -> None:
        fault.strike(self._hosts[fault.victim])

    def heal(self, fault: Fault) -> None:
        fault.heal(self._hosts[fault.victim])

    @contextlib.contextmanager
    def started(
        self, command: Sequence[str], machines: Sequence[int]
    ) -> "Iterator[list[subprocess.Popen[bytes]]]":
        """A rank on each of these machines, in this order; none outlives the context."""
        self._port += 1
        hosts = [self._hosts[machine] for machine in machines]
        rendezvous = Rendezvous(port=self._port)
        processes = []
        try:
            for rank, machine in enumerate(machines):
                variables = rendezvous.variables(hosts, rank) | {"OMP_NUM_THREADS": "1"}
                with self._log(machine).open("wb") as log:
                    processes.append(
                        subprocess.Popen(
                            rendezvous.command(hosts, rank, [sys.executable, *command]),
                            env=os.environ | variables,
                            cwd=_ROOT,
                            stdout=log,
                            stderr=log,
                        )
                    )
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def ends(
        self,
        processes: "Sequence[subprocess.Popen[bytes]]",
        machines: Sequence[int],
        since: float,
        limit_s: float,
    ) -> list[Ended | None]:
        """By rank, on these machines; None for one that is still there after the limit."""
        found: list[Ended | None] = [None] * len(processes)
        while None in found and time.monotonic() - since < limit_s:
            for rank, process in enumerate(processes):
                if found[rank] is None and process.poll() is not None:
                    seconds = time.monotonic() - since
                    found[rank] = Ended(seconds, process.returncode, self.last_line(machines[rank]))
            time.sleep(0.05)
        return found

    def last_line(self, machine: int) -> str:
        """That it ends with; torch has warnings of its own behind it."""
        lines = self._log(machine).read_text(errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        errors = [line for line in said if _ERROR.match(line)]
        return next(reversed(errors or said), "")

    def _log(self, machine: int) -> Path:
        return self._folder / f"{machine}.log"


_SAME, _ENDED, _NOTHING_KEPT = "the same weights", "ended as usual", "-"


class Training:
    """Runs of `launch.py`, and whether they end as one that nothing happened to."""

    name = "launch.py"

    def __init__(self, machines: Machines, folder: Path) -> None:
        self._machines = machines
        self._folder = folder
        self._whole: dict[str, str] | None = None

    def command(self, name: str, *more: str) -> list[str]:
        where = ["--log_dir", str(self._folder), "--exp_name", name]
        return ["launch.py", *_TRAINING, *where, *more]

    def is_training(self, name: str) -> bool:
        return (self._folder / name / "checkpoint").exists() and any(
            (self._folder / name / "checkpoint").iterdir()
        )

    def goes_on(self, name: str, machines: Sequence[int]) -> str:
        """Resumes on these machines."""
        with self._machines.started(self.command(name, "--resume"), machines) as processes:
            ended = self._machines.ends(processes, machines, time.monotonic(), _PATIENCE_S)
        if any(one is None or one.exit_code for one in ended):
            return f"FAILED: {next((one.line for one in ended if one and one.exit_code), 'hangs')}"
        return self.verdict(name)

    def is_clear(self, line: str, is_victim: bool, victim: int) -> bool:
        """The others must name it; to the victim all others are gone."""
        if is_victim:
            return bool(re.match(r"Error: (ranks? [\d, ]+ (is|are) gone|rank 0 cannot be) ", line))
        return bool(re.match(rf"Error: rank {victim} (is gone|cannot be reached)", line))

    def verdict(self, name: str) -> str:
        return _SAME if self._weights(name) == self._reference() else "OTHER WEIGHTS"

    def _reference(self) -> dict[str, str]:
        if self._whole is None:
            with self._machines.started(self.command("whole"), [0]) as processes:
                self._machines.ends(processes, [0], time.monotonic(), _PATIENCE_S)
            self._whole = self._weights("whole")
        return self._whole

    def _weights(self, name: str) -> dict[str, str]:
        cells = json.loads((self._folder / name / "result.json").read_text())["cells"]
        return {str(cell["lr"]): cell["weights_sha256"] for cell in cells}


class Hook:
    """Runs of a DistributedDataParallel with the hook, which keep nothing to go on with."""

    name = "DDP hook"

    def __init__(self, machines: Machines, folder: Path) -> None:
        self._folder = folder

    def command(self, name: str) -> list[str]:
        script = _HERE / "link_faults_ddp.py"
        return [str(script), str(_TIMEOUT_S), str(self._folder / name)]

    def is_training(self, name: str) -> bool:
        return (self._folder / name).exists()

    def goes_on(self, name: str, machines: Sequence[int]) -> str:
        return _NOTHING_KEPT

    def is_clear(self, line: str, is_victim: bool, victim: int) -> bool:
        return bool(re.match(r"\[rank\d\]: .*CollectiveError: ", line))

    def verdict(self, name: str) -> str:
        return _ENDED


def _hit(machines: Machines, client: "Training | Hook", fault: Fault, number: int) -> Outcome:
    """What one fault does to one run."""
    name = f"{client.name.replace(' ', '_')}_{number}"
    with machines.started(client.command(name), range(_NUM_RANKS)) as processes:
        deadline = time.monotonic() + _PATIENCE_S
        while not client.is_training(name):
            if time.monotonic() > deadline or any(one.poll() is not None for one in processes):
                said = (machines.last_line(0),)
                return Outcome(fault, client.name, "NEVER TRAINED", said, "-", is_right=False)
            time.sleep(0.1)
        since = time.monotonic()
        machines.strike(fault)
        limit_s = _PATIENCE_S if fault.is_survived else _LIMIT_S
        ended = machines.ends(processes, range(_NUM_RANKS), since, limit_s)
    machines.heal(fault)
    if fault.is_survived:
        return _survived(client, fault, name, ended)
    others = [rank for rank in range(_NUM_RANKS) if rank != fault.victim]
    return _stopped(client, fault, ended, client.goes_on(name, others))


def _survived(
    client: "Training | Hook", fault: Fault, name: str, ended: Sequence[Ended | None]
) -> Outcome:
    """Of a fault after which the run is to come to its end."""
    is_whole = all(one is not None and one.exit_code == 0 for one in ended)
    after = client.verdict(name) if is_whole else "-"
    words = "goes on to its end" if is_whole else _times(ended)
    is_right = is_whole and after in (_SAME, _ENDED)
    return Outcome(fault, client.name, words, _last_lines(ended), after, is_right)


def _stopped(
    client: "Training | Hook", fault: Fault, ended: Sequence[Ended | None], after: str
) -> Outcome:
    """Of a fault that every rank is to say, soon."""
    is_said = all(
        one and one.exit_code and client.is_clear(one.line, rank == fault.victim, fault.victim)
        for rank, one in enumerate(ended)
    )
    is_right = is_said and after in (_SAME, _NOTHING_KEPT)
    return Outcome(fault, client.name, _times(ended), _last_lines(ended), after, is_right)


def _times(ended: Sequence[Ended | None]) -> str:
    return ", ".join("STILL THERE" if one is None else f"{one.seconds:.1f}" for one in ended)


def _last_lines(ended: Sequence[Ended | None]) -> tuple[str, ...]:
    return tuple(one.line for one in ended if one and one.exit_code)


@contextlib.contextmanager
def _hosts() -> Iterator[list[Host]]:
    try:
        with network(_NUM_RANKS, _LINK) as hosts:
            yield hosts
    except LabError as error:
        raise click.UsageError(str(error)) from error


def table(outcomes: Sequence[Outcome]) -> str:
    """A row for each fault, of both clients."""
    found = {(one.fault.name, one.client): one for one in outcomes}
    rows = []
    for fault in dict.fromkeys(one.fault.name for one in outcomes):
        trained, hooked = found.get((fault, Training.name)), found.get((fault, Hook.name))
        cells = [trained.ended, trained.after] if trained else ["-", "-"]
        rows.append([fault, *cells, hooked.ended if hooked else "-"])
    return markdown_table(["attempted", "`launch.py`", "then", "DDP hook"], rows)


@click.command()
@click.option("--only", type=click.Choice(["launch.py", "hook"]), default=None)
@click.option("--faults", default=len(FAULTS), show_default=True, help="So many of the faults.")
def main(only: str | None, faults: int) -> None:
    """Prints a row for each fault, and on standard error what each run of it said."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder, _hosts() as hosts:
        machines = Machines(hosts, Path(folder))
        clients: list[Training | Hook] = []
        if only != "hook":
            clients.append(Training(machines, Path(folder)))
        if only != "launch.py":
            clients.append(Hook(machines, Path(folder)))
        for client in clients:
            for number, fault in enumerate(FAULTS[:faults]):
                outcomes.append(_hit(machines, client, fault, number))
                click.echo(outcomes[-1], err=True)
    click.echo(table(outcomes))
    num_right = sum(one.is_right for one in outcomes)
    click.echo(f"\n{num_right} of {len(outcomes)} as they should be")
    if num_right < len(outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

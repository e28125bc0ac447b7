"""Intruders against runs that are under way: what they try, and what comes of it.

python scripts/robustness/intruders.py --connections 10000

`python launch.py` and torchrun train in a network namespace of their own. An intruder in another
one, as another machine would be, or on the same machine, knows every port on which they listen. It
sends garbage, holds connections half-open, forges keys of the store, and leaves pickles where torch
would read them. Namespaces need Linux, root and the command ip; without them the intruder is on the
same machine only. Exit code 1 if launch.py ran anything, was reached from another machine, showed
a traceback, or did not go on where it should have.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from intrusions import KINDS

from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.report.tables import markdown_table

ROOT = Path(__file__).resolve().parents[2]
INTRUSIONS = str(Path(__file__).with_name("intrusions.py"))
BIN = Path(sys.executable).parent
VICTIM, INTRUDER = f"csgdi{os.getpid()}a", f"csgdi{os.getpid()}b"
ADDRESS, INTRUDERS_ADDRESS, INTERFACE = "10.214.0.1", "10.214.0.2", "eth0"
LOOPBACK = "127.0.0.1"
# Endless: it is asked to end.
OPTIONS = ["--model", "mlp", "--epochs", "1000000", "--batch_size", "256", "--threads", "1",
           "--compile", "off", "--timeout", "20", "--exp_name", "x"]  # fmt: skip
TORCHRUN = [str(BIN / "torchrun"), "--nproc_per_node", "2"]
LAUNCH = str(ROOT / "launch.py")
OWN, ELASTIC, STATIC = "launch.py", "torchrun", "torchrun --master-port"
COMMANDS = {
    OWN: [sys.executable, LAUNCH, "--num_workers", "2"],
    ELASTIC: [*TORCHRUN, "--local-addr", ADDRESS, LAUNCH],
    STATIC: [*TORCHRUN, "--master-addr", ADDRESS, "--master-port", "29517", LAUNCH],
}
# Of all connections.
SHARES = {"garbage": 0.6, "half-open": 0.3, "forged keys": 0.05, "pickles": 0.05}
START_S = 120.0
# torchrun's agent reads its rendezvous every five seconds.
READ_AFTER_S = 12.0
GOES_ON_S = 60.0
END_S = 60.0
INTRUSION_S = 900.0
GOES_ON = "goes on"
ABROAD, HERE = "another machine", "this machine"


@dataclass(frozen=True)
class Row:
    """What came of one kind of intrusion."""

    victim: str
    place: str
    kind: str
    seen: Counter[str]
    ran_code: bool
    outcome: str
    is_bad: bool

    @property
    def connections(self) -> int:
        return self.seen["accepted"] + self.seen["refused"]

    def cells(self) -> list[str]:
        numbers = self.connections, self.seen["accepted"], self.seen["let into the store"]
        code = "yes" if self.ran_code else "no"
        return [self.victim, self.place, self.kind, *(f"{n:,}" for n in numbers), code,
                self.outcome]  # fmt: skip


class Victim:
    """A run that trains until it is asked to end.

    Attributes:
        namespace: where it runs; None for this one.
        canary: a file that is there as soon as it has run an intruder's code.
    """

    def __init__(self, name: str, folder: Path, namespace: str | None) -> None:
        self._log = folder / "log"
        self.canary = folder / "canary"
        self.namespace = namespace
        reachable = {} if namespace is None else {"GLOO_SOCKET_IFNAME": INTERFACE}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                inside(namespace, [*COMMANDS[name], *OPTIONS, "--log_dir", str(folder)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | reachable,
                start_new_session=True,
            )

    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def is_running(self) -> bool:
        return self.process.poll() is None

    def goes_on(self, within_s: float) -> bool:
        """Whether it comes to the end of another epoch."""
        before, deadline = self.text().count(": epoch "), time.monotonic() + within_s
        while self.is_running() and time.monotonic() < deadline:
            if self.text().count(": epoch ") > before:
                return True
            time.sleep(0.2)
        return False

    def ports(self) -> list[int]:
        """On which anything of it listens, whatever the address."""
        shown = subprocess.run(
            inside(self.namespace, ["ss", "-Hltnp"]), capture_output=True, text=True, check=True
        ).stdout
        own = {self.process.pid, *descendants(self.process.pid)}
        return sorted(
            int(line.split()[3].rpartition(":")[2])
            for line in shown.splitlines()
            if own & set(map(int, re.findall(r"pid=(\d+)", line)))
        )

    def end(self) -> None:
        """In order if it can."""
        if self.is_running():
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        self.kill()

    def kill(self) -> None:
        for pid in [*descendants(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def descendants(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def inside(namespace: str | None, command: list[str]) -> list[str]:
    return command if namespace is None else ["ip", "netns", "exec", namespace, *command]


@contextlib.contextmanager
def namespaces() -> Iterator[None]:
    """Two machines on one cable."""
    try:
        for name in (VICTIM, INTRUDER):
            ip("netns", "add", name)
        ip("-n", VICTIM, "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE,
           "netns", INTRUDER)  # fmt: skip
        for name, address in ((VICTIM, ADDRESS), (INTRUDER, INTRUDERS_ADDRESS)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", INTERFACE)
            for interface in (INTERFACE, "lo"):
                ip("-n", name, "link", "set", interface, "up")
        yield
    finally:
        for name in (VICTIM, INTRUDER):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def intrude(name: str, place: str, connections: int, has_namespaces: bool) -> Iterator[Row]:
    """All kinds, one after the other, against a run that is started anew where it has ended."""
    with contextlib.ExitStack() as stack:
        victim: Victim | None = None
        for kind in KINDS:
            count = max(1, round(connections * SHARES[kind]))
            if victim is None:
                victim = stack.enter_context(started(name, has_namespaces))
            row = one_kind(victim, name, place, kind, count)
            yield row
            if row.outcome != GOES_ON:
                victim = None


@contextlib.contextmanager
def started(name: str, has_namespaces: bool) -> Iterator[Victim]:
    with tempfile.TemporaryDirectory(prefix="compsgd_intruders_") as folder:
        victim = Victim(name, Path(folder), VICTIM if has_namespaces else None)
        try:
            if not victim.goes_on(START_S):
                raise click.ClickException(f"{name} does not train:\n{victim.text()[-3000:]}")
            yield victim
        finally:
            victim.end()


def one_kind(victim: Victim, name: str, place: str, kind: str, count: int) -> Row:
    namespace = None if victim.namespace is None else INTRUDER if place == ABROAD else VICTIM
    address = ADDRESS if place == ABROAD else LOOPBACK
    command = [sys.executable, INTRUSIONS, kind, address, str(victim.canary), str(count)]
    done = subprocess.run(
        inside(namespace, [*command, *map(str, victim.ports())]),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
        timeout=INTRUSION_S,
    )  # fmt: skip
    if kind == "pickles":
        time.sleep(READ_AFTER_S)
    went_on = victim.goes_on(GOES_ON_S)
    if not went_on:
        victim.end()
    return judged(name, place, kind, Counter(json.loads(done.stdout)), went_on, victim)


def judged(
    name: str, place: str, kind: str, seen: Counter[str], went_on: bool, victim: Victim
) -> Row:
    text, ran_code = victim.text(), victim.canary.exists()
    has_traceback = "Traceback" in text
    ours = [line for line in text.splitlines() if line.startswith("Error: ")]
    outcome = GOES_ON if went_on else ours[0] if ours else "ended"
    # Whoever writes into the store of a run may end it, but no more than that.
    is_harmless = went_on or (kind in ("forged keys", "pickles") and bool(ours))
    is_reached = place == ABROAD and seen["accepted"] > 0
    is_bad = name == OWN and (ran_code or has_traceback or is_reached or not is_harmless)
    if has_traceback:
        outcome += ", with a traceback"
    return Row(name, place, kind, seen, ran_code, outcome, is_bad)


def plan(has_namespaces: bool) -> Sequence[tuple[str, str]]:
    if has_namespaces:
        return [(OWN, ABROAD), (OWN, HERE), (ELASTIC, ABROAD), (STATIC, ABROAD)]
    return [(OWN, HERE)]


@click.command(cls=SpreadingCommand)
@click.option("--connections", type=click.IntRange(min=1), default=10_000, show_default=True,
              help="Against each run from each place.")  # fmt: skip
@click.option("--victim", "victims", type=click.Choice(tuple(COMMANDS)), multiple=True,
              help="Only these.")  # fmt: skip
def main(connections: int, victims: tuple[str, ...]) -> None:
    """Prints what was attempted, and what came of it."""
    # Ended from outside, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    has_namespaces = os.geteuid() == 0
    if not has_namespaces:
        click.echo("another network namespace needs root: the intruder is on this machine only")
    rows: list[Row] = []
    with namespaces() if has_namespaces else contextlib.nullcontext():
        for name, place in plan(has_namespaces):
            if not victims or name in victims:
                for row in intrude(name, place, connections, has_namespaces):
                    click.echo(f"{', '.join(row.cells())}", err=True)
                    rows.append(row)
    heads = ["run", "intruder on", "what", "connections", "accepted", "let into the store",
             "code run", "the run"]  # fmt: skip
    click.echo(markdown_table(heads, [row.cells() for row in rows]))
    bad = [row for row in rows if row.is_bad]
    for row in bad:
        click.echo(f"wrong: {', '.join(row.cells())}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

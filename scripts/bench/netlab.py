"""A network on one machine: hosts as network namespaces, joined by a bridge over links of a given
rate, and a command run as one rank in each of them.

sudo python scripts/bench/netlab.py run --hosts 4 --rate 100mbit -- \
    python launch.py --num_workers 4 --dataset MNIST --epochs 1

Needs Linux, root, and the commands ip and tc. What it makes is taken down whatever happens, Ctrl-C
included; after a SIGKILL, which nothing survives, `netlab.py remove` does it. Names that it has not
made are refused.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from compsgd.workers.failures import Interruption, interrupted_exit_code

INTERFACE = "eth0"
PORT = 29500
# What marks a bridge as one of ours, before the number of the process that has made it.
_MARK = "compsgd netlab"
_SUBNET = "10.213.0"
_MOST_HOSTS = 250
# Names of links have 15 letters at most, of which the ends need 4.
_NAMES = r"[a-z][a-z0-9]{0,10}"
_RATES = r"(\d+(?:\.\d+)?)([kmgt]?)bit"
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
# A bucket holds what passes in so long, and the largest segment at least.
_BURST_S, _SEGMENT_BYTES = 2e-3, 16_384
_QUEUE = "50ms"
# Of ranks after one of them has failed, and of what is told to end.
_PATIENCE_S = 30.0
# In the environment of rank 0.
_ANSWER = "NETLAB_ANSWER"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LabError(Exception):
    """There can be no such network, with the reason in a line."""


@dataclass(frozen=True)
class Link:
    """The shape of a host's link, in either direction.

    Attributes:
        rate: bits a second as tc writes them, as in 100mbit; None for as fast as it goes.
        delay_ms: that everything takes longer, one way.
    """

    rate: str | None = None
    delay_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.rate is not None and not re.fullmatch(_RATES, self.rate):
            raise LabError(f"the rate {self.rate!r} is none: write 10mbit, 1gbit or the like")

    @property
    def bits_per_s(self) -> float:
        """Infinity where it is not shaped."""
        found = re.fullmatch(_RATES, self.rate or "")
        return float(found[1]) * _UNITS[found[2]] if found else float("inf")

    def shape(self, device: str, namespace: str | None = None) -> None:
        """Makes a device send so, whatever it did before."""
        tc = ["tc"] if namespace is None else ["tc", "-n", namespace]
        if self.rate is None:
            _attempt(*tc, "qdisc", "delete", "dev", device, "root")
        else:
            burst = max(_SEGMENT_BYTES, round(self.bits_per_s / 8 * _BURST_S))
            run(*tc, "qdisc", "replace", "dev", device, "root", "handle", "1:", "tbf",
                "rate", self.rate, "burst", str(burst), "latency", _QUEUE)  # fmt: skip
        if self.delay_ms:
            parent = ["root"] if self.rate is None else ["parent", "1:1"]
            delay = ["netem", "delay", f"{self.delay_ms:g}ms", "limit", "100000"]
            try:
                run(*tc, "qdisc", "replace", "dev", device, *parent, "handle", "10:", *delay)
            except LabError as error:
                raise LabError(f"this kernel cannot delay (netem): {error}") from error


@dataclass(frozen=True)
class Place:
    """Where a rank runs.

    Attributes:
        address: of its interface.
        interface: which others reach it by.
        prefix: before a command that is to run there.
    """

    address: str = "127.0.0.1"
    interface: str = "lo"

    @property
    def prefix(self) -> list[str]:
        return []


@dataclass(frozen=True)
class Host(Place):
    """A network namespace, which its processes take for a machine.

    Attributes:
        namespace: its name.
        outer: the end of its link that is on the bridge.
    """

    namespace: str = ""
    outer: str = ""

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.namespace]

    def shape(self, link: Link) -> None:
        """Both directions."""
        link.shape(self.interface, self.namespace)
        link.shape(self.outer)


@contextlib.contextmanager
def network(count: int, link: Link, name: str | None = None) -> Iterator[list[Host]]:
    """Hosts that reach each other, as long as the context lasts.

    Args:
        count: of hosts.
        link: of each of them.
        name: that all its parts begin with; made of this process's number if not given.

    Raises:
        LabError: there cannot be such a network, or there are parts of that name. Nothing is left.
    """
    name = f"csgd{os.getpid()}" if name is None else name
    _check_machine()
    _check_new(name)
    if not 1 <= count <= _MOST_HOSTS:
        raise LabError(f"{count} hosts: there must be from 1 to {_MOST_HOSTS}")
    with contextlib.ExitStack() as undo:
        run("ip", "link", "add", name, "type", "bridge")
        undo.callback(_undisturbed, "ip", "link", "delete", name)
        run("ip", "link", "set", name, "alias", f"{_MARK} {os.getpid()} {_began(os.getpid())}")
        run("ip", "link", "set", name, "up")
        hosts = [Host(f"{_SUBNET}.{i + 1}", INTERFACE, f"{name}-{i}", f"{name}v{i}")
                 for i in range(count)]  # fmt: skip
        yield [_add(host, name, link, undo) for host in hosts]


def _check_machine() -> None:
    if not sys.platform.startswith("linux"):
        raise LabError("network namespaces need Linux")
    if os.geteuid() != 0:
        raise LabError("network namespaces need root: run it with sudo")
    for command in ("ip", "tc"):
        if shutil.which(command) is None:
            raise LabError(f"there is no command {command}; the package iproute2 has it")


def _check_new(name: str) -> None:
    if not re.fullmatch(_NAMES, name):
        raise LabError(f"the name {name!r} is none: a letter and up to 10 letters and digits")
    for one in [*_links(), *_namespaces()]:
        if re.fullmatch(rf"{name}(v\d+|-\d+)?", one):
            raise LabError(f"there is a {one}, which is not this run's; choose another name")


def _add(host: Host, bridge: str, link: Link, undo: contextlib.ExitStack) -> Host:
    inside = ("ip", "-n", host.namespace)
    run("ip", "netns", "add", host.namespace)
    undo.callback(_remove_namespace, host.namespace)
    run("ip", "link", "add", host.outer, "type", "veth", "peer", "name", host.interface,
        "netns", host.namespace)  # fmt: skip
    # A namespace may outlive its name for a while, and the link with it.
    undo.callback(_undisturbed, "ip", "link", "delete", host.outer)
    run("ip", "link", "set", host.outer, "master", bridge, "up")
    run(*inside, "addr", "add", f"{host.address}/24", "dev", host.interface)
    run(*inside, "link", "set", host.interface, "up")
    run(*inside, "link", "set", "lo", "up")
    host.shape(link)
    return host


def run(*command: str) -> str:
    """What a command prints.

    Raises:
        LabError: it fails, with what it says.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LabError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise LabError(f"{' '.join(command)}: {words}")
    return done.stdout


def _attempt(*command: str) -> None:
    with contextlib.suppress(LabError):
        run(*command)


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """For taking down, which no signal interrupts: nor the commands, as they inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _undisturbed(*command: str) -> None:
    with _no_signals():
        _attempt(*command)


def _remove_namespace(name: str) -> None:
    """With all processes in it, whoever has started them."""
    with _no_signals(), contextlib.suppress(LabError):
        for pid in run("ip", "netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run("ip", "netns", "delete", name)


def _links() -> dict[str, str]:
    """All links of this machine, with their marks."""
    found = json.loads(run("ip", "-j", "link", "show") or "[]")
    return {one["ifname"]: one.get("ifalias", "") for one in found}


def _namespaces() -> list[str]:
    return [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()]


def _began(pid: int) -> str:
    """When a process began, as numbers come again; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


# What is left of a process that was killed.


def left_behind() -> list[str]:
    """Names of networks whose processes are gone."""
    return [name for name, mark in _links().items() if _is_ours(mark) and not _is_used(mark)]


def remove(name: str) -> None:
    """Takes a network down that its process could not.

    Raises:
        LabError: there is none of that name, it is not ours, or it is used.
    """
    marks = _links()
    if name not in marks:
        raise LabError(f"there is no network {name}")
    if not _is_ours(marks[name]):
        raise LabError(f"{name} is nothing that netlab has made; it is left alone")
    if _is_used(marks[name]):
        raise LabError(f"{name} belongs to process {marks[name].split()[-2]}, which is running")
    for namespace in _namespaces():
        if re.fullmatch(rf"{name}-\d+", namespace):
            _remove_namespace(namespace)
    for link in marks:
        if re.fullmatch(rf"{name}v\d+", link):
            _undisturbed("ip", "link", "delete", link)
    run("ip", "link", "delete", name)


def _is_ours(mark: str) -> bool:
    return re.fullmatch(rf"{_MARK} \d+ \d+", mark) is not None


def _is_used(mark: str) -> bool:
    pid, began = mark.split()[-2:]
    return _began(int(pid)) == began


# Ranks.


@dataclass(frozen=True)
class Rendezvous:
    """How ranks find each other.

    Attributes:
        uses_torchrun: whether each host has a torchrun (static), or a rank in its environment.
        num_processes: on each host; more than one needs torchrun.
        port: on host 0.
    """

    uses_torchrun: bool = False
    num_processes: int = 1
    port: int = PORT

    def command(self, hosts: Sequence[Place], number: int, command: Sequence[str]) -> list[str]:
        """Of a host, by its number; a script and its arguments where torchrun starts it."""
        if not self.uses_torchrun:
            return [*hosts[number].prefix, *command]
        return [
            *hosts[number].prefix, sys.executable, "-m", "torch.distributed.run",
            "--nnodes", str(len(hosts)), "--node-rank", str(number),
            "--nproc-per-node", str(self.num_processes),
            "--master-addr", hosts[0].address, "--master-port", str(self.port), *command,
        ]  # fmt: skip

    def variables(self, hosts: Sequence[Place], number: int) -> dict[str, str]:
        interface = hosts[number].interface
        interfaces = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        if self.uses_torchrun:
            return interfaces
        return interfaces | {
            "RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(hosts)),
            "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": hosts[0].address, "MASTER_PORT": str(self.port),
        }  # fmt: skip


@contextlib.contextmanager
def ranks(
    hosts: Sequence[Place],
    command: Sequence[str],
    rendezvous: Rendezvous = Rendezvous(),
    variables: Mapping[str, str] | None = None,
) -> "Iterator[list[subprocess.Popen[str]]]":
    """A process on each host, its output in pipes; none outlives the context. What they have
    started in sessions of their own ends with the network.

    Args:
        hosts: in the order of their ranks.
        command: as of Rendezvous.command.
        rendezvous: how they find each other.
        variables: of the environment, besides.
    """
    processes: list[subprocess.Popen[str]] = []
    try:
        for number in range(len(hosts)):
            own = rendezvous.variables(hosts, number) | dict(variables or {})
            processes.append(
                subprocess.Popen(
                    rendezvous.command(hosts, number, command), env=os.environ | own, text=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    errors="replace", start_new_session=True,
                )
            )  # fmt: skip
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


@contextlib.contextmanager
def places(count: int, link: Link | None) -> Iterator[Sequence[Place]]:
    """Hosts of a network with such links, or, without a link, this machine itself so many times."""
    if link is None:
        yield [Place()] * count
        return
    with network(count, link) as hosts:
        yield hosts


def ask_ranks(where: Sequence[Place], script: Path, question: Mapping[str, Any]) -> Any:
    """Runs a script as a rank in each place, and returns what rank 0 answers: see `answer`.

    Args:
        script: of Python; its first argument is the question, in JSON.

    Raises:
        LabError: a rank fails; with the last line that it says.
    """
    rendezvous = Rendezvous(port=PORT if isinstance(where[0], Host) else _free_port())
    command = [sys.executable, str(script), json.dumps(dict(question))]
    with tempfile.TemporaryDirectory() as folder:
        # Libraries print, too.
        path = Path(folder) / "answer.json"
        variables = {"OMP_NUM_THREADS": "1", _ANSWER: str(path)}
        # The pool is left last: it waits for those who read what ranks say until they are killed.
        with (
            ThreadPoolExecutor(len(where)) as pool,
            ranks(where, command, rendezvous, variables) as processes,
        ):
            outputs = list(pool.map(lambda process: process.communicate(), processes))
            codes = [process.returncode for process in processes]
        for rank, (code, (_, errors)) in enumerate(zip(codes, outputs, strict=True)):
            if code:
                last = errors.strip().rpartition("\n")[2] or "it says nothing"
                raise LabError(f"rank {rank} ended with {code}: {last}")
        return json.loads(path.read_text())


def answer(found: Callable[..., Any]) -> None:
    """In a rank that `ask_ranks` has started: calls a function with the question."""
    reply = found(**json.loads(sys.argv[1]))
    if os.environ["RANK"] == "0":
        Path(os.environ[_ANSWER]).write_text(json.dumps(reply))


def is_asked() -> bool:
    """Whether this is a rank of `ask_ranks`."""
    return _ANSWER in os.environ


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def _shown(processes: "Sequence[subprocess.Popen[str]]") -> Iterator[None]:
    """What they print is printed, each line behind the number of its host."""
    lock = threading.Lock()

    def show(number: int, stream: str) -> None:
        pipe = getattr(processes[number], stream)
        # Where a process is ended early, its pipe is closed while it is read.
        with contextlib.suppress(ValueError):
            for line in pipe:
                with lock, contextlib.suppress(OSError):
                    click.echo(f"[{number}] {line.rstrip()}", err=stream == "stderr")

    threads = [threading.Thread(target=show, args=(number, stream), daemon=True)
               for number in range(len(processes)) for stream in ("stdout", "stderr")]  # fmt: skip
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        # What still runs, as where a signal comes early, keeps its pipes open: it is ended next.
        if all(process.poll() is not None for process in processes):
            for thread in threads:
                thread.join(timeout=_PATIENCE_S)


def exit_codes(processes: "Sequence[subprocess.Popen[str]]") -> list[int]:
    """Of all, when they have ended; those that outlive a failure for long are told to end."""
    deadline = None
    while any(process.poll() is None for process in processes):
        if deadline is None and any(process.poll() for process in processes):
            deadline = time.monotonic() + _PATIENCE_S
        if deadline is not None and time.monotonic() > deadline:
            end(processes, signal.SIGTERM)
        time.sleep(0.05)
    return [process.returncode for process in processes]


def end(processes: "Sequence[subprocess.Popen[str]]", number: int) -> None:
    """Tells them to end by a signal, and ends them if they do not in time."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
    deadline = time.monotonic() + _PATIENCE_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interruption(number)


def _number_of(error: KeyboardInterrupt) -> int:
    return error.number if isinstance(error, Interruption) else signal.SIGINT


@click.group()
def main() -> None:
    """Networks of shaped links on one machine."""


@main.command("run", context_settings={"ignore_unknown_options": True})
@click.option("--hosts", type=click.IntRange(1, _MOST_HOSTS), default=2, show_default=True)
@click.option(
    "--rate",
    default=None,
    metavar="RATE",
    show_default="as fast as it goes",
    help="Of each link and direction, as tc writes it: 10mbit, 1gbit.",
)
@click.option(
    "--delay",
    "delay_ms",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Milliseconds that a link takes, one way; needs the kernel's netem.",
)
@click.option(
    "--torchrun",
    is_flag=True,
    help="COMMAND is a script and its arguments, for a torchrun on each host.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="On each host, with --torchrun.",
)
@click.option(
    "--name",
    default=None,
    metavar="NAME",
    show_default="of the process's number",
    help="That all parts of the network begin with.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(
    hosts: int, rate: str | None, delay_ms: float, torchrun: bool, processes: int,
    name: str | None, command: tuple[str, ...],
) -> None:  # fmt: skip
    """Runs COMMAND as one rank on each host, with the environment of a rank (env://)."""
    if processes > 1 and not torchrun:
        raise click.UsageError("--processes is for --torchrun: without it a host has one rank")
    rendezvous = Rendezvous(torchrun, processes)
    for number in _ENDING[1:]:
        signal.signal(number, _interrupt)
    try:
        with network(hosts, Link(rate, delay_ms), name) as made:
            codes = _run(made, command, rendezvous)
    except LabError as error:
        raise click.UsageError(str(error)) from error
    except KeyboardInterrupt as error:
        sys.exit(interrupted_exit_code(_number_of(error)))
    failed = [f"host {number} ended with {code}" for number, code in enumerate(codes) if code]
    if failed:
        raise click.ClickException("; ".join(failed))


def _run(hosts: Sequence[Host], command: Sequence[str], rendezvous: Rendezvous) -> list[int]:
    with ranks(hosts, command, rendezvous) as processes, _shown(processes):
        try:
            return exit_codes(processes)
        except KeyboardInterrupt as error:
            end(processes, _number_of(error))
            raise


@main.command("remove")
@click.argument("names", nargs=-1)
def remove_command(names: tuple[str, ...]) -> None:
    """Takes down what killed processes have left behind: networks NAMES, or all."""
    try:
        _check_machine()
        for name in names or left_behind():
            remove(name)
            click.echo(f"removed {name}")
    except LabError as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()

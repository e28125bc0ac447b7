"""Many short runs, each hurt at random moments and started again until it is finished.

python scripts/robustness/soak.py --runs 200

What happens to a run, and when, is drawn from --seed; mostly while it trains, for which a run that
nobody hurts is measured first, and each one watched. A worker or its launcher is killed, stopped,
terminated or interrupted, or a file of its checkpoint is damaged while it is down. Whatever it is,
the run must end soon, say in one line of ours what happened, leave no process and no damaged file
behind, and, resumed, come to the weights and histories of a run that was never hurt. A damaged
checkpoint must be refused by name; it is then deleted, and the run begins anew.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click
import numpy as np

from compsgd.errors import CompsgdError
from compsgd.history import read_histories
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.report.tables import markdown_table

LAUNCH = str(Path(__file__).resolve().parents[2] / "launch.py")
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "torchrun": [str(BIN / "torchrun"), "--nproc_per_node", "2", LAUNCH],
    "launch.py": [sys.executable, LAUNCH, "--num_workers", "2"],
    "compsgd train": [sys.executable, "-m", "compsgd", "train", "--num_workers", "2"],
}
EPOCHS = 10
OPTIONS = ["--model", "mlp", "--epochs", str(EPOCHS), "--batch_size", "32", "--threads", "1",
           "--compile", "off", "--count_usages", "--checkpoint_every", "5", "--timeout", "8",
           "--lr", "0.003",
           "--range_decay", "1", "--momentum", "0", "--lr_schedule", "constant", "--warmup", "0",
           "--l2", "0",
           "--exp_name", "x"]  # fmt: skip
SIGNALS = {
    "Ctrl-C to": signal.SIGINT,
    "kill": signal.SIGKILL,
    "terminate": signal.SIGTERM,
    "interrupt": signal.SIGINT,
    "stop": signal.SIGSTOP,
}
HURTS = {
    name: [hurt for hurt in SIGNALS for _ in range(1 if hurt == "stop" else 3)]
    for name in ("torchrun", "launch.py")
} | {"compsgd train": ["kill", "terminate", "interrupt", "Ctrl-C to"]}
TRAINING_SHARE = 0.75
HURTS_AT_MOST = 2
DAMAGE_SHARE = 0.2
ATTEMPTS_AT_MOST = 8
# torchrun takes 30 s more for a process that is stopped; a person would kill it.
STOPPED_FOR_S = 25.0
# Two runs share the machine.
SOON_S = 20.0
PATIENCE_S = 60.0
# Those that miss their launcher before they have found its store take longest to notice.
ORPHAN_AFTER_S = 40.0
MEASURED = {"seconds_hist", "compute_seconds_hist"}
GOOD = ("bit-identical", "attempts", "clear errors", "ended by the signal itself")
BAD = ("different ends", "orphans", "corrupt files", "damage accepted", "tracebacks",
       "unclear ends", "late ends", "other failures", "left behind")  # fmt: skip
CLEAR = re.compile(
    r"^Error: .*(gone|interrupted|damaged|was ended by|exchange failed|no experiment)", re.MULTILINE
)
# The head of the last table that a run prints.
RESULTS = "bytes/worker/step"
EPOCH = re.compile(r"epoch (\d+)")
OURS = re.compile(r'File "[^"]*(launch\.py|compsgd/|comm/|workers/)')


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    exit_code: int
    text: str
    seconds_after_hurt: float


@dataclass(frozen=True)
class Lengths:
    """Of a run that nobody hurts.

    Attributes:
        start_s: from its start to the end of the first epoch.
        epoch_s: of every later epoch.
    """

    start_s: float
    epoch_s: float


class Soak:
    """What has been seen of all runs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.hurts: Counter[str] = Counter()
        self.hurts_in_training: Counter[str] = Counter()
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def count_hurt(self, name: str, in_training: bool = False) -> None:
        with self._lock:
            self.hurts[name] += 1
            self.hurts_in_training[name] += in_training

    def fail(self, kind: str, story: str) -> None:
        self.count(kind)
        self.failures.append(f"{kind}: {story}")


class Run:
    """One run, hurt and resumed until it is finished."""

    def __init__(
        self, folder: Path, name: str, draw: random.Random, soak: Soak, lengths: Lengths
    ) -> None:
        self._folder = folder
        self._name = name
        self._random = draw
        self._soak = soak
        self._lengths = lengths
        self._hurt_at: float | None = None
        folder.mkdir()

    def to_the_end(self, expected: dict[str, bytes]) -> None:
        is_damaged = False
        for attempt in range(ATTEMPTS_AT_MOST):
            may_hurt = attempt < HURTS_AT_MOST and not is_damaged
            hurt = self._random.choice(HURTS[self._name]) if may_hurt else None
            end = self.attempt(hurt)
            self._soak.count("attempts")
            self._check_end(end, hurt, is_damaged)
            if end.exit_code == 0:
                break
            if is_damaged:
                shutil.rmtree(self._folder / "x" / "checkpoint")
                is_damaged = False
            elif self._random.random() < DAMAGE_SHARE:
                is_damaged = self._damage()
        self._check_outcome(expected)
        shutil.rmtree(self._folder)

    def attempt(self, hurt: str | None) -> End:
        """Starts it, anew or to go on, hurts it, and waits for its end."""
        command = [*LAUNCHERS[self._name], *OPTIONS, "--log_dir", str(self._folder)]
        if (self._folder / "x").exists():
            command.append("--resume")
        mark = f"{self._folder}-{time.monotonic_ns()}"
        self._hurt_at = None
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "SOAK": mark},
                start_new_session=True,
            )
            if hurt is not None:
                self._wait_for_its_moment(process, output)
                self._hurt(process, hurt, mark, is_training(written(output)))
            try:
                exit_code = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                exit_code = 124
            seconds = time.monotonic() - (self._hurt_at or time.monotonic())
            self._count_orphans(mark, hurt)
            process.wait()
            output.seek(0)
            return End(exit_code, output.read(), seconds)

    def _wait_for_its_moment(self, process: "subprocess.Popen[bytes]", output: IO[str]) -> None:
        """Mostly while it trains, however long it takes to come there on a busy machine."""
        if self._random.random() >= TRAINING_SHARE:
            time.sleep(self._random.uniform(0, self._lengths.start_s))
            return
        share = self._random.random()
        while process.poll() is None and not is_training(written(output)):
            time.sleep(0.02)
        epochs_left = EPOCHS - max(map(int, EPOCH.findall(written(output))), default=0)
        time.sleep(share * epochs_left * self._lengths.epoch_s)

    def _hurt(
        self, process: "subprocess.Popen[bytes]", hurt: str, mark: str, in_training: bool
    ) -> None:
        workers = sorted(pid for pid in marked(mark) if pid != process.pid and is_worker(pid))
        target = process.pid
        if hurt == "Ctrl-C to":
            self._note_hurt("Ctrl-C to all", in_training)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            return
        if workers and (hurt == "stop" or self._random.random() < 0.6):
            target = self._random.choice(workers)
        is_launcher = target == process.pid and self._name != "compsgd train"
        if process.poll() is not None or (hurt == "stop" and is_launcher):
            return
        self._note_hurt(f"{hurt} a {'launcher' if is_launcher else 'worker'}", in_training)
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, SIGNALS[hurt])
        if hurt == "stop":
            deadline = time.monotonic() + STOPPED_FOR_S
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.1)
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)

    def _note_hurt(self, what: str, in_training: bool) -> None:
        self._soak.count_hurt(what, in_training)
        self._hurt_at = time.monotonic()

    def _count_orphans(self, mark: str, hurt: str | None) -> None:
        deadline = time.monotonic() + ORPHAN_AFTER_S
        while marked(mark) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in marked(mark):
            self._soak.fail("orphans", f"{self._name}, {hurt}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _damage(self) -> bool:
        """Damages some file of the checkpoint, if there is one."""
        checkpoint = self._folder / "x" / "checkpoint"
        if not (checkpoint / "manifest.json").exists():
            return False
        serial = re.findall(rb'"serial": (\d+)', (checkpoint / "manifest.json").read_bytes())[0]
        parts = sorted((checkpoint / f"{int(serial):06d}").iterdir())
        path = self._random.choice([checkpoint / "manifest.json", *parts])
        content = bytearray(path.read_bytes())
        if self._random.random() < 0.5:
            content = content[: self._random.randrange(len(content))]
        else:
            content[self._random.randrange(len(content))] ^= 1 << self._random.randrange(8)
        path.write_bytes(content)
        self._soak.count_hurt("damage a checkpoint")
        return True

    def _check_end(self, end: End, hurt: str | None, is_damaged: bool) -> None:
        refused = end.exit_code == 1 and "is damaged" in end.text
        if has_traceback(end.text):
            self._fail("tracebacks", end, hurt)
        if is_damaged and not refused:
            self._fail("damage accepted", end, hurt)
        if refused and not is_damaged:
            self._fail("corrupt files", end, hurt)
        if end.seconds_after_hurt > SOON_S and hurt != "stop" and end.exit_code != 0:
            self._fail("late ends", end, hurt)
        if end.exit_code != 0:
            self._check_failure(end, hurt, is_damaged)

    def _check_failure(self, end: End, hurt: str | None, is_damaged: bool) -> None:
        if hurt is None and not is_damaged:
            self._fail("other failures", end, hurt)
        elif CLEAR.search(end.text):
            self._soak.count("clear errors")
        elif hurt != "stop" and self._could_say_nothing(end, hurt):
            self._soak.count("ended by the signal itself")
        else:
            self._fail("unclear ends", end, hurt)

    def _could_say_nothing(self, end: End, hurt: str | None) -> bool:
        """Hit while it started, or after its results; or what was killed is all there is, or the
        launcher."""
        is_starting = "epoch" not in end.text
        is_finished = RESULTS in end.text
        return is_starting or is_finished or (hurt == "kill" and end.exit_code == -signal.SIGKILL)

    def _check_outcome(self, expected: dict[str, bytes]) -> None:
        try:
            is_identical = outcome(self._folder / "x") == expected
        except (OSError, CompsgdError) as error:
            self._soak.fail("corrupt files", f"{self._name}: {error}")
            return
        left_over = [path for path in (self._folder / "x").rglob(".*") if path.is_file()]
        if left_over or (self._folder / "x" / "checkpoint").exists():
            self._soak.fail("left behind", f"{self._name}: {left_over}")
        if is_identical:
            self._soak.count("bit-identical")
        else:
            self._soak.fail("different ends", self._name)

    def _fail(self, kind: str, end: End, hurt: str | None) -> None:
        self._soak.fail(
            kind,
            f"{self._name}, {hurt}, and {end.seconds_after_hurt:.1f} s after it exit code "
            f"{end.exit_code}\n{end.text[-3000:]}",
        )


def written(output: IO[str]) -> str:
    """What a run has written so far; where it writes next stays where it is."""
    return os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0).decode(errors="replace")


def is_training(text: str) -> bool:
    """By what a run says: it goes on from a checkpoint, or has come to the end of an epoch, and
    not yet to its results."""
    return EPOCH.search(text) is not None and RESULTS not in text


def has_traceback(text: str) -> bool:
    """Whether code of ours has shown a traceback."""
    blocks = text.split("Traceback (most recent call last):")[1:]
    return any(OURS.search(block) for block in blocks)


def marked(mark: str) -> list[int]:
    """The processes that were started with this mark in their environment, and still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if f"SOAK={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"launch.py" in arguments or b"spawn_main" in arguments
    return False


def outcome(folder: Path) -> dict[str, bytes]:
    """Weights and histories, but for what is measured."""
    found = {
        f"{cell} {metric}": np.asarray(values).tobytes()
        for cell, history in read_histories(folder / "histories.pkl").items()
        for metric, values in history.items()
        if metric not in MEASURED
    }
    for path in sorted((folder / "weights").glob("*.pt")):
        found[path.name] = path.read_bytes()
    return found


@click.command(cls=SpreadingCommand)
@click.option("--runs", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True,
              help="Runs at a time.")  # fmt: skip
def main(runs: int, seed: int, jobs: int) -> None:
    """Hurts runs, and prints what became of them; exit code 1 if anything did that must not."""
    soak = Soak()
    with (
        tempfile.TemporaryDirectory(prefix="compsgd_soak_") as name,
        ThreadPoolExecutor(jobs) as pool,
    ):
        folder = Path(name)
        expected, lengths = undisturbed(folder / "undisturbed")

        def one(number: int) -> None:
            draw = random.Random(f"{seed} {number}")
            launcher = draw.choice(list(LAUNCHERS))
            Run(folder / str(number), launcher, draw, soak, lengths).to_the_end(expected)

        for done, _ in enumerate(pool.map(one, range(runs)), 1):
            while soak.failures:
                click.echo(soak.failures.pop(0), err=True)
            if done % 10 == 0:
                click.echo(f"{done} runs, {soak.counts['bit-identical']} bit-identical", err=True)
    click.echo(report(soak, runs))
    is_good = soak.counts["bit-identical"] == runs and not any(map(soak.counts.get, BAD))
    sys.exit(0 if is_good else 1)


def undisturbed(folder: Path) -> tuple[dict[str, bytes], Lengths]:
    """The outcome of a run that nobody hurts, and how long it takes under the slowest launcher."""
    command = [*LAUNCHERS["torchrun"], *OPTIONS, "--log_dir", str(folder)]
    began = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = [(line, time.monotonic() - began) for line in process.stdout]
    if process.returncode:
        raise click.ClickException("".join(line for line, _ in lines))
    epochs_s = [seconds for line, seconds in lines if EPOCH.search(line)]
    epoch_s = (epochs_s[-1] - epochs_s[0]) / (EPOCHS - 1)
    return outcome(folder / "x"), Lengths(epochs_s[0], epoch_s)


def report(soak: Soak, runs: int) -> str:
    hurts = [
        [name, str(times), str(soak.hurts_in_training[name])]
        for name, times in sorted(soak.hurts.items())
    ]
    signals = [name for name in soak.hurts if not name.startswith("damage")]
    both = [soak.hurts, soak.hurts_in_training]
    hurts.append(["all signals", *(str(sum(each[name] for name in signals)) for each in both)])
    seen = [["runs", str(runs)], *([name, str(soak.counts[name])] for name in (*GOOD, *BAD))]
    return "\n\n".join(
        [
            markdown_table(["hurt", "times", "while it trains"], hurts),
            markdown_table(["seen", "times"], seen),
        ]
    )


if __name__ == "__main__":
    main()

"""What becomes of results when writing them goes wrong: a process killed in the middle of a write,
a full disk, a folder that is removed, a second writer.

sudo python scripts/robustness/writes.py --kills 100

Each kill hits the write itself: the process sends itself SIGKILL when half of a file is written,
before it is on the disk, before it takes its name, or right after. Then `--resume` must come to the
weights and histories of a run that nothing happened to, and leave nothing half-written. The full
disk is a file system in memory, so that one needs root. Exits with 1 if a row is not as it should
be.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import click
import numpy as np
import torch

from compsgd import files
from compsgd.history import read_histories
from compsgd.workers.commands.cli import train
from compsgd.workers.commands.execution import execute
from compsgd.workers.report.tables import markdown_table
from compsgd.workers.results.one_writer import OneWriter

_OPTIONS = [
    "--model", "mlp", "--epochs", "3", "--batch_size", "128", "--num_workers", "2", "--threads",
    "1", "--compile", "off", "--count_usages", "--checkpoint_every", "2",
]  # fmt: skip
_MEASURED = {"seconds_hist", "compute_seconds_hist"}
STAGES = ("half of it written", "before it is on the disk", "before it has its name", "right after")
_TIMEOUT_S = 300


class Run:
    """How a command ended, in a process of its own: its exit status as of os.waitpid, and words."""

    def __init__(self, *args: str, before: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            args: of `compsgd train`.
            before: called in the process before it begins.
        """
        with tempfile.TemporaryFile() as output:
            # A fork, as importing torch a hundred times would take most of the time.
            child = os.fork()
            if child == 0:
                _be_a_command([*_OPTIONS, *args], before, output.fileno())
            _, status = os.waitpid(child, 0)
            output.seek(0)
            self.words = output.read().decode(errors="replace").strip()
        self.exit_code = os.waitstatus_to_exitcode(status)

    @property
    def line(self) -> str:
        """The last one, of an error."""
        return self.words.split("\n")[-1]


def _be_a_command(args: list[str], before: Callable[[], None], output: int) -> None:
    """Never returns."""
    code = 70
    try:
        signal.alarm(_TIMEOUT_S)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(number, "wb", 0), write_through=True)
                                  for number in (1, 2))  # fmt: skip
        sys.argv = ["compsgd train", *args]
        before()
        try:
            execute(train, "compsgd train")
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class _Deadly:
    """Kills this process in the course of one of its atomic writes."""

    def __init__(self, number: int, stage: str) -> None:
        """Args: number: which write, from 0. stage: one of STAGES."""
        self._number, self._stage = number, stage

    def arm(self) -> None:
        original, calls = files.atomic_write, [0]

        @contextlib.contextmanager
        def atomic_write(path: Path) -> Iterator[Any]:
            is_its_turn = calls[0] == self._number
            calls[0] += 1
            if not is_its_turn:
                with original(path) as file:
                    yield file
                return
            with original(path) as file:
                buffer = io.BytesIO()
                yield buffer
                self._write(file, buffer.getvalue())
            if self._stage == STAGES[3]:
                _die()

        for module in list(sys.modules.values()):
            if getattr(module, "atomic_write", None) is original:
                module.atomic_write = atomic_write  # type: ignore[attr-defined]

    def _write(self, file: IO[bytes], data: bytes) -> None:
        is_half = self._stage == STAGES[0]
        file.write(data[: len(data) // 2] if is_half else data)
        file.flush()
        if is_half or self._stage == STAGES[1]:
            _die()
        if self._stage == STAGES[2]:
            # atomic_write itself has only the disk left before the name.
            os.fsync(file.fileno())
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _count_writes(where: list[str]) -> int:
    """Atomic writes of a whole run."""
    with tempfile.NamedTemporaryFile("r") as counted:

        def count() -> None:
            original = files.atomic_write

            @contextlib.contextmanager
            def atomic_write(path: Path) -> Iterator[Any]:
                with Path(counted.name).open("a") as file:
                    file.write("x")
                with original(path) as file:
                    yield file

            for module in list(sys.modules.values()):
                if getattr(module, "atomic_write", None) is original:
                    module.atomic_write = atomic_write  # type: ignore[attr-defined]

        run = Run(*where, before=count)
        if run.exit_code:
            raise SystemExit(f"the run that nothing happens to failed: {run.words}")
        return len(counted.read())


def _outcome(folder: Path) -> dict[str, Any]:
    """Weights and histories, without what is measured; and whatever is half-written."""
    histories = read_histories(folder / "histories.pkl")
    found: dict[str, Any] = {
        f"{cell} {name}": np.asarray(values).tobytes()
        for cell, history in histories.items()
        for name, values in history.items()
        if name not in _MEASURED
    }
    (cell,) = json.loads((folder / "result.json").read_text())["cells"]
    found["weights"] = cell["weights_sha256"]
    torch.load(folder / cell["weights"], weights_only=True)
    found["left over"] = sorted(path.name for path in folder.rglob(".*") if path.name != ".lock")
    return found


def _kills(folder: Path, number: int) -> list[tuple[str, str]]:
    """Rows for so many kills, spread over all writes of a run and all stages."""
    whole = ["--log_dir", str(folder), "--exp_name", "whole"]
    num_writes = _count_writes(whole)
    expected = _outcome(folder / "whole")
    results: Counter[tuple[str, str]] = Counter()
    for one in range(number):
        stage, at = STAGES[one % len(STAGES)], one * num_writes // number
        name = f"kill_{one}"
        where = ["--log_dir", str(folder), "--exp_name", name]
        killed = Run(*where, before=_Deadly(at, stage).arm)
        results[stage, _after_a_kill(killed, where, folder / name, expected)] += 1
        shutil.rmtree(folder / name, ignore_errors=True)
    return [
        (f"killed in one of {num_writes} writes, {stage}: {times} times", result)
        for (stage, result), times in sorted(results.items())
    ]


def _after_a_kill(killed: Run, where: list[str], folder: Path, expected: dict[str, Any]) -> str:
    if killed.exit_code != -signal.SIGKILL:
        return f"NOT HIT: exit code {killed.exit_code}, {killed.line}"
    # What had not even its config has nothing to go on with.
    is_resumable = (folder / "config.json").exists()
    again = Run(*where, "--resume" if is_resumable else "--overwrite")
    if again.exit_code:
        return f"FAILED: {again.line}"
    return "the same weights and histories" if _outcome(folder) == expected else "OTHER RESULTS"


def _full_disk(folder: Path) -> tuple[str, str]:
    """The disk is full while a checkpoint is written; later it is not."""
    disk = folder / "disk"
    disk.mkdir()
    what = "the disk is full at a checkpoint"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode:
        return what, f"not tried: {mounted.stderr.strip()}"
    try:
        where = ["--log_dir", str(disk), "--exp_name", "x"]

        def fill_later() -> None:
            from compsgd.workers.train.checkpoint import Checkpoints

            original, calls = Checkpoints.save, [0]

            def save(*args: Any) -> None:
                calls[0] += 1
                if calls[0] == 3:
                    with contextlib.suppress(OSError), (disk / "big").open("wb", 0) as big:
                        while True:
                            big.write(bytes(4096))
                original(*args)

            Checkpoints.save = save  # type: ignore[method-assign]

        full = Run(*where, before=fill_later)
        if full.exit_code != 1 or "Traceback" in full.words:
            return what, f"BAD END: exit code {full.exit_code}, {full.words}"
        (disk / "big").unlink()
        again = Run(*where, "--resume")
        if again.exit_code:
            return what, f"FAILED: {again.line}"
        is_same = _outcome(disk / "x") == _outcome(folder / "whole")
        result = "the same weights and histories, resumed" if is_same else "OTHER RESULTS"
        return what, f"{_without(full.line, folder)}; {result}"
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def _removed_folder(folder: Path) -> tuple[str, str]:
    where = ["--log_dir", str(folder), "--exp_name", "removed"]

    def remove_later() -> None:
        from compsgd.workers.train.checkpoint import Checkpoints

        original, calls = Checkpoints.save, [0]

        def save(*args: Any) -> None:
            calls[0] += 1
            if calls[0] == 3:
                shutil.rmtree(folder / "removed")
            original(*args)

        Checkpoints.save = save  # type: ignore[method-assign]

    run = Run(*where, before=remove_later)
    is_fine = run.exit_code == 1 and "Traceback" not in run.words
    line = _without(run.line, folder)
    return "the folder is removed during the run", line if is_fine else f"BAD END: {run.words}"


def _two_writers(folder: Path) -> tuple[str, str]:
    writer = OneWriter(folder / "whole")
    writer.take()
    lines = set()
    try:
        for option in ("--resume", "--overwrite"):
            run = Run("--log_dir", str(folder), "--exp_name", "whole", option)
            lines.add(run.line if run.exit_code == 2 else f"BAD END: {run.words}")
    finally:
        writer.release()
    return "a second run of the same name", "; ".join(_without(one, folder) for one in lines)


def _without(line: str, folder: Path) -> str:
    return line.replace(f"{folder}/", "")


_BAD = ("NOT HIT", "FAILED", "OTHER RESULTS", "BAD END")


@click.command()
@click.option("--kills", type=click.IntRange(min=0), default=100, show_default=True)
def main(kills: int) -> None:
    """Prints what was tried, and what came of it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _kills(folder, kills)
        rows += [_full_disk(folder), _removed_folder(folder), _two_writers(folder)]
    click.echo(markdown_table(["attempted", "result"], rows))
    if any(word in result for _, result in rows for word in _BAD):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

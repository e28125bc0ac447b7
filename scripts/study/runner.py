"""Runs trials, several at a time, each in processes of its own."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from candidates import DDP, LION, TRAIN
from plan import Trial
from records import Records

_HERE = Path(__file__).resolve().parent
_PROGRAMS = {
    TRAIN: ["-m", "compsgd", "train", "--download", "false", "--threads", "1"],
    DDP: [str(_HERE / "ddp_run.py")],
    LION: [str(_HERE / "lion_run.py")],
}
_POLL_S = 0.2


@dataclass
class Runner:
    """
    Attributes:
        records: says where the folder of a trial is.
        data: the folder of all data sets.
        jobs: trials at a time.
        failed: trials that came to no result, which are not tried again.
    """

    records: Records
    data: Path
    jobs: int
    failed: list[Trial] = field(default_factory=list)

    def run(self, ready: Callable[[], Iterable[Trial]]) -> Iterator[Trial]:
        """Runs all that is ready, until nothing is; gives each when it is finished.

        Left early, it ends what is running: `compsgd train` goes on from a checkpoint, the others
        begin anew.

        Args:
            ready: what can start, the most needed first; asked again after each that is finished.
        """
        with contextlib.ExitStack() as stack:
            running: dict[Trial, subprocess.Popen[bytes]] = {}
            while True:
                for trial in self._next(ready(), running):
                    running[trial] = stack.enter_context(self._started(trial))
                if not running:
                    return
                for trial in _wait_for_any(running):
                    if running.pop(trial).returncode:
                        self.failed.append(trial)
                    else:
                        yield trial

    def log(self, trial: Trial) -> Path:
        """What a trial has printed."""
        folder = self.records.folder(trial)
        return folder.with_name(f"{folder.name}.log")

    def command(self, trial: Trial) -> list[str]:
        """What runs a trial, from its beginning or from where it was interrupted."""
        folder = self.records.folder(trial)
        options = trial.options() | {
            "dataset_root": self.data / trial.task.data,
            "log_dir": folder.parent,
            "exp_name": folder.name,
        }
        program = trial.method.program
        command = [sys.executable, *_PROGRAMS[program], *_arguments(options)]
        return [*command, "--resume"] if program == TRAIN and folder.exists() else command

    def _next(self, ready: Iterable[Trial], running: Iterable[Trial]) -> list[Trial]:
        """As many as there is room for."""
        busy = list(running)
        waiting = [one for one in ready if one not in busy and one not in self.failed]
        return waiting[: self.jobs - len(busy)]

    @contextlib.contextmanager
    def _started(self, trial: Trial) -> "Iterator[subprocess.Popen[bytes]]":
        log = self.log(trial)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(trial), stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def _wait_for_any(running: "dict[Trial, subprocess.Popen[bytes]]") -> list[Trial]:
    while True:
        ended = [trial for trial, process in running.items() if process.poll() is not None]
        if ended:
            return ended
        time.sleep(_POLL_S)


def _arguments(options: dict[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name}", _as_text(value))]


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.9g}" if isinstance(value, float) else str(value)

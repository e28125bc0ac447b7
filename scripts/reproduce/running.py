"""Runs what is missing of a set of trainings, several at a time; what is there is not run again."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cells import Training

from compsgd.files import atomic_write
from compsgd.workers.bench.provenance import Provenance, here_today
from compsgd.workers.data.datasets import load_dataset
from compsgd.workers.failures import RunError, UsageError

_TRAIN = [str(Path(sys.executable).parent / "compsgd"), "train"]
_POLL_S = 0.2


@dataclass(frozen=True)
class Laboratory:
    """Where trainings are run, and on what.

    Attributes:
        dataset, dataset_root, download: as for `compsgd train`.
        out: the folder of all results.
        epochs: of every run in place of its own, for a quick try; None for its own.
    """

    dataset: str
    dataset_root: Path
    download: bool
    out: Path
    epochs: int | None = None

    def adapted(self, training: Training) -> Training:
        return training if self.epochs is None else replace(training, epochs=self.epochs)

    def folder(self, training: Training) -> Path:
        """Of the results of a training that is adapted already."""
        return self._log_dir / training.name

    def is_finished(self, training: Training) -> bool:
        try:
            return bool(json.loads((self.folder(training) / "result.json").read_text())["cells"])
        except (OSError, ValueError, KeyError):
            return False

    def command(self, training: Training) -> list[str]:
        """What trains it, from the beginning or from where it was interrupted."""
        command = [
            *_TRAIN, *training.options(),
            "--dataset", self.dataset, "--dataset_root", str(self.dataset_root),
            "--download", "false", "--log_dir", str(self._log_dir), "--exp_name", training.name,
        ]  # fmt: skip
        return [*command, "--resume"] if self.folder(training).exists() else command

    def log(self, training: Training) -> Path:
        return self._log_dir / f"{training.name}.log"

    def note_provenance(self, training: Training) -> None:
        """Of one that has just been finished."""
        with atomic_write(self._provenance_path(training)) as file:
            file.write(json.dumps(here_today()).encode())

    def provenance(self, training: Training) -> Provenance:
        """Of one that is finished."""
        try:
            return Provenance(*json.loads(self._provenance_path(training).read_text()))
        except (OSError, ValueError, TypeError):
            return Provenance("on an unknown day", "on an unknown machine")

    def _provenance_path(self, training: Training) -> Path:
        return self._log_dir / f"{training.name}.provenance.json"

    @property
    def _log_dir(self) -> Path:
        return self.out / "runs" / self.dataset


def missing(trainings: Sequence[Training], laboratory: Laboratory) -> list[Training]:
    """Those without results, each once."""
    return [one for one in dict.fromkeys(trainings) if not laboratory.is_finished(one)]


def train(trainings: Sequence[Training], laboratory: Laboratory, jobs: int) -> Iterator[Training]:
    """Runs all of them, at most `jobs` at a time; gives each when it is finished.

    Raises:
        UsageError, RunError: what the first that failed says. All others have then stopped behind
            a checkpoint, as they do if the iteration is left early.
    """
    if not trainings:
        return
    # Once for all: runs that start together must not download to the same place.
    load_dataset(laboratory.dataset, laboratory.dataset_root, laboratory.download)
    waiting = list(trainings)
    with contextlib.ExitStack() as stack:
        running: dict[Training, subprocess.Popen[bytes]] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                one = waiting.pop(0)
                running[one] = stack.enter_context(_started(one, laboratory))
            time.sleep(_POLL_S)
            ended = [one for one, process in running.items() if process.poll() is not None]
            for one in sorted(ended, key=lambda one: running[one].returncode != 0):
                _check(running.pop(one).returncode, laboratory.log(one))
                laboratory.note_provenance(one)
                yield one


@contextlib.contextmanager
def _started(training: Training, laboratory: Laboratory) -> "Iterator[subprocess.Popen[bytes]]":
    """A training while it runs; one that is left early writes a checkpoint and ends."""
    log = laboratory.log(training)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        command = laboratory.command(training)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _check(exit_code: int, log: Path) -> None:
    if exit_code == 0:
        return
    errors = [line for line in log.read_text().splitlines() if line.startswith("Error: ")]
    reason = errors[-1].removeprefix("Error: ") if errors else f"exit code {exit_code}"
    if exit_code == 2:
        raise UsageError(reason)
    raise RunError(f"a run failed: {reason} (see {log}); the same command goes on")

"""The folder that an experiment leaves behind, and the table at its end."""

import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from compsgd.comm.traffic.cost import ring_all_reduce
from compsgd.comm.traffic.ledger import Ledger
from compsgd.errors import DamagedDataError
from compsgd.files import atomic_write
from compsgd.history import Histories, write_histories
from compsgd.kinds import Kind
from compsgd.strict_json import read_json
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.options import Cell, Options
from compsgd.workers.report.progress import cell_file_name, cell_name
from compsgd.workers.report.tables import format_table, result_table
from compsgd.workers.report.tensorboard import FOLDER as TENSORBOARD
from compsgd.workers.report.tracker import FOLDER as TRACKER
from compsgd.workers.results.digests import versions, weights_sha256
from compsgd.workers.results.finished import CONFIG_NAME, HISTORIES_NAME, RESULT_NAME
from compsgd.workers.results.formats import CONFIG, read_checked, result_format
from compsgd.workers.results.metrics_file import write_metrics
from compsgd.workers.results.one_writer import LOCK, OneWriter
from compsgd.workers.train.checkpoint import FOLDER, State
from compsgd.workers.train.measures import measure_of
from compsgd.workers.train.training import CellResult

log = logging.getLogger("compsgd")

_WEIGHTS, _METRICS = "weights", "metrics.csv"


def free_name(options: Options, launcher: str | None) -> str:
    """The name that the options make, or with the first number behind it of which there is no
    experiment yet.

    Args:
        launcher: whose own experiment counts as free: it goes on with it.
    """
    usual = options.folder_name()
    for number in itertools.count(1):
        name = usual if number == 1 else f"{usual}_{number}"
        one = Experiment(replace(options, exp_name=name))
        if not one.path.exists() or (launcher is not None and one.is_started_by(launcher)):
            return name
    raise AssertionError("there is no last number")


class Experiment:
    """`log_dir/exp_name`: config.json, histories.pkl, metrics.csv, weights/, result.json, plots."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._measure = measure_of(options.dataset)
        self.path = options.log_dir / options.folder_name()
        self._writer = OneWriter(self.path)
        self._histories: Histories = {}
        self._cells: list[dict[str, Any]] = []
        self.plots: list[Path] = []

    @property
    def is_finished(self) -> bool:
        """Whether every cell of the sweep has its results."""
        return len(self._cells) == len(self._options.cells())

    def release(self) -> None:
        """This run is over: others may write to the folder."""
        self._writer.release()

    def check(self) -> None:
        """Raises UsageError if the folder exists or cannot be created, or another run is writing to
        it; creates nothing."""
        try:
            self._check()
        except OSError as error:
            raise UsageError(f"--log_dir {self._options.log_dir}: {error.strerror}") from error

    def _check(self) -> None:
        if self.path.exists() and not self._options.overwrite:
            raise UsageError(
                f"the experiment {self.path} exists; choose another --exp_name or --overwrite true"
            )
        if self.path.exists():
            self._refuse_foreign("overwritten")
            self._writer.take()
        nearest = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise UsageError(f"--log_dir {self._options.log_dir}: cannot write to {nearest}")

    def is_started_by(self, launcher: str) -> bool:
        """Whether the folder is one that this launcher's processes have made."""
        try:
            config = read_checked(self.path / CONFIG_NAME, CONFIG)
        except (OSError, RunError):
            return False
        return bool(config["run"].get("launcher") == launcher)

    def check_resumable(self) -> None:
        """Raises UsageError if there is no such experiment of ours, or one of other options, or one
        that another run is writing to."""
        if not self.path.exists():
            raise UsageError(f"there is no experiment {self.path} to --resume")
        self._refuse_foreign("resumed")
        self._writer.take()
        then = self._options_then()
        if then is not None:
            check_unchanged(self._options.lasting(), then, self.path)

    def _refuse_foreign(self, done: str) -> None:
        """Raises UsageError if anybody but us has put anything into the folder."""
        reason = _why_foreign(self.path)
        if reason:
            raise UsageError(f"{self.path} {reason}; it is not {done}")

    def _options_then(self) -> dict[str, str] | None:
        """The lasting options that config.json has; None where it was not written yet."""
        try:
            found: dict[str, str] = read_checked(self.path / CONFIG_NAME, CONFIG)["lasting"]
        except FileNotFoundError:
            return None
        return found

    def read_results(self) -> bool:
        """Whether this experiment is finished; its results are then those of its files."""
        try:
            self._cells = read_checked(self.path / RESULT_NAME, self._result_format)["cells"]
        except FileNotFoundError:
            return False
        if self.is_finished:
            return True
        self._cells = []
        return False

    @property
    def _result_format(self) -> Kind:
        return result_format(self._options.cells(), self._measure.results)

    def finished_cells(self) -> State:
        """Those that `save` has added, for a checkpoint."""
        return {
            "cells": self._cells,
            "histories": {
                cell: {
                    name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                    for name, value in history.items()
                }
                for cell, history in self._histories.items()
            },
        }

    def reopen(self, finished: State, environment: dict[str, Any]) -> None:
        """Goes on with the folder as a checkpoint knows it.

        Args:
            finished: from finished_cells.
            environment: where and how the run takes place now, for config.json.
        """
        self._cells = finished["cells"]
        self._histories = {
            cell: {
                name: value.numpy() if isinstance(value, torch.Tensor) else value
                for name, value in history.items()
            }
            for cell, history in finished["histories"].items()
        }
        clear_left_overs(self.path)
        self._write_config(environment)

    def create(self, environment: dict[str, Any]) -> None:
        """Makes the folder, empty but for config.json.

        Args:
            environment: where and how the run takes place, for config.json.

        Raises:
            UsageError: it cannot be made, or another run has made it since `check`.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            was_there = self._writer.is_taken
            self._writer.take()
            if not was_there and (self.path / CONFIG_NAME).exists():
                raise UsageError(f"another run has made {self.path} in the meantime")
            _clear(self.path)
            self._write_config(environment)
            (self.path / _WEIGHTS).mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--log_dir {self._options.log_dir}: cannot create {self.path}: {error.strerror}"
            ) from error

    def discard(self) -> None:
        """Takes the folder away again, of a run that has not begun."""
        begun = (self.path / name for name in (HISTORIES_NAME, FOLDER))
        if not any(one.exists() for one in begun):
            shutil.rmtree(self.path, ignore_errors=True)

    def _write_config(self, environment: dict[str, Any]) -> None:
        options = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in self._options.as_dict().items()
        }
        content = {
            "options": options,
            "lasting": self._options.lasting(),
            "run": environment,
            "versions": versions(),
        }
        self._write_json(CONFIG_NAME, content, CONFIG)

    def save(self, result: CellResult, ledger: Ledger) -> None:
        """Adds a finished cell: weights, histories, plots, result.json, in this order, each
        atomically."""
        weights = self.path / _WEIGHTS / f"{cell_file_name(result.cell)}.pt"
        try:
            with atomic_write(weights) as file:
                torch.save(result.weights, file)
            self._histories[result.cell] = result.history
            write_histories(self.path / HISTORIES_NAME, self._histories)
            write_metrics(self.path / _METRICS, self._histories)
        except (OSError, RuntimeError) as error:
            raise RunError(f"cannot write the results to {self.path}: {error}") from error
        self._draw_if_possible()
        self._cells.append(self._summary(result, weights))
        traffic = {purpose.value: flow.sent_bytes for purpose, flow in ledger.wire.items()}
        content = {"cells": self._cells, "process_0_bytes_sent": traffic}
        self._write_json(RESULT_NAME, content, self._result_format)

    def _draw_if_possible(self) -> None:
        """Figures are only wanted; `compsgd plot` draws them from the histories at any time."""
        try:
            self._draw()
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            log.warning("the figures in %s cannot be drawn: %s", self.path, reason)

    def _draw(self) -> None:
        from compsgd.plots import draw_experiment  # matplotlib: a second, on one process

        self.plots = draw_experiment(
            self._histories,
            self._labels(),
            self.path,
            title=self._title(),
            one_axis=self._options.one_plot_optimizer,
        )

    def _labels(self) -> dict[Cell, str]:
        return {cell: cell_name(cell, self._options.has_range) for cell in self._options.cells()}

    def _title(self) -> str:
        options = self._options
        title = f"{options.optimizer} on {options.dataset}, {options.num_workers} workers"
        if options.adversaries:
            title += f", {options.adversaries} of them adversaries ({options.attack})"
        return title

    def table(self) -> str:
        """Per cell: accuracies, or losses and perplexities, bytes, compression rate, time."""
        head, rows = result_table(self._cells, self._labels(), self._measure.columns)
        lines = [format_table(head, rows)]
        sat_out = sum(cell["num_non_finite"] for cell in self._cells)
        if sat_out:
            lines.append(f"{sat_out} gradients were not finite and sat out.")
        lines += [
            f"{name}: gradient bytes sent by all processes: ledger {cell['wire_bytes_sent']:,}, "
            f"kernel {cell['kernel_bytes_sent']:,}, ratio {cell['kernel_to_ledger']:.5f}"
            for name, cell in zip((row[0] for row in rows), self._cells, strict=True)
            if "kernel_bytes_sent" in cell
        ]
        return "\n".join(lines)

    def _summary(self, result: CellResult, weights: Path) -> dict[str, Any]:
        lr, decay = result.cell
        of, key = self._measure.of, self._measure.key
        bytes_sent = result.history["bytes_sent_hist"]
        bytes_per_step = sum(bytes_sent) / len(bytes_sent)
        num_workers = self._options.num_workers
        uncompressed = ring_all_reduce(result.num_parameters, num_workers)
        return {
            "lr": lr,
            "decay": decay,
            "train_loss": result.train.loss,
            f"train_{key}": of(result.train),
            "test_loss": result.test.loss,
            f"test_{key}": of(result.test),
            f"last_epoch_{key}": result.history[f"avg_epoch_{key}_hist"][-1],
            "num_parameters": result.num_parameters,
            "num_steps": len(bytes_sent),
            "bytes_per_worker_and_step": bytes_per_step,
            "compression_rate": uncompressed / bytes_per_step if bytes_per_step else None,
            "num_non_finite": result.num_non_finite,
            "median_round_seconds": median(result.history["seconds_hist"]),
            "median_compute_share": median(
                np.divide(
                    result.history["compute_seconds_hist"], result.history["seconds_hist"]
                ).tolist()
            ),
            "seconds": result.seconds,
            **result.verified_bytes,
            "weights": str(weights.relative_to(self.path)),
            "weights_sha256": weights_sha256(result.weights),
        }

    def _write_json(self, name: str, content: dict[str, Any], kind: Kind) -> None:
        content = _finite(content)
        kind.check("", content)
        try:
            with atomic_write(self.path / name) as file:
                text = json.dumps(content, indent=2, allow_nan=False)
                file.write(text.encode() + b"\n")
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror}") from error


def _finite(content: Any) -> Any:
    """With null for what JSON has no number for: the loss of a run that diverged."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _why_foreign(path: Path) -> str:
    """Why a folder is not what our runs leave, and nothing else; empty where it is."""
    if not path.is_dir():
        return "is no folder"
    own = {
        CONFIG_NAME, HISTORIES_NAME, RESULT_NAME, _METRICS, _WEIGHTS, FOLDER, TENSORBOARD,
        TRACKER, LOCK, *_plot_names(),
    }  # fmt: skip
    names = {entry.name for entry in path.iterdir() if not _is_left_over(entry, own)}
    others = sorted(names - own)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return f"holds {others[0]}{more}, which is of no experiment of compsgd"
    reason = _why_not_own(path / CONFIG_NAME)
    if not reason or _is_empty(path, own):
        return ""
    return f"is no experiment of compsgd ({reason})"


def _is_empty(path: Path, own: set[str]) -> bool:
    """Whether there is nothing here, or only what a run leaves that could not write its config."""
    entries = [
        entry for entry in path.iterdir() if entry.name != LOCK and not _is_left_over(entry, own)
    ]
    return all(entry.is_dir() and not any(entry.iterdir()) for entry in entries)


def _plot_names() -> tuple[str, ...]:
    from compsgd.plots import PLOT_NAMES

    return PLOT_NAMES


def _is_left_over(path: Path, own: set[str]) -> bool:
    """Whether this is what atomic_write leaves where a process was killed."""
    return any(path.name.startswith(f".{name}.") for name in own)


_OLDER_CONFIG_KEYS = {"options", "run", "versions"}
_CONFIG_KEYS = {*_OLDER_CONFIG_KEYS, "lasting"}


def _why_not_own(path: Path) -> str:
    """Why a config.json is not of ours; empty if it is."""
    try:
        content = read_json(path)
    except DamagedDataError as error:
        return str(error)
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    if isinstance(content, dict) and _OLDER_CONFIG_KEYS <= set(content) <= _CONFIG_KEYS:
        return ""
    return f"{path.name} is of something else"


def _clear(path: Path) -> None:
    for folder in (FOLDER, TENSORBOARD, TRACKER):
        shutil.rmtree(path / folder, ignore_errors=True)
    clear_left_overs(path)
    for weights in (path / _WEIGHTS).glob("*.pt"):
        weights.unlink()
    for name in (HISTORIES_NAME, _METRICS, RESULT_NAME, *_plot_names()):
        (path / name).unlink(missing_ok=True)


def clear_left_overs(path: Path) -> None:
    """Deletes the temporary files of processes that were killed."""
    for folder in (path, path / _WEIGHTS):
        for entry in folder.glob(".*.*"):
            entry.unlink(missing_ok=True)


def check_unchanged(now: Mapping[str, str], then: Mapping[str, str], path: Path) -> None:
    """Raises UsageError if an option is not what it was when `path` was made."""
    for name, value in then.items():
        if name in now and now[name] != value:
            raise UsageError(
                f"{name} is {now[name]}, but {path} was made with {value}; resume with what it "
                "was, or start another experiment"
            )

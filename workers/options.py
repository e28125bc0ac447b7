"""Everything a run can be told, and which combinations make sense."""

import importlib.util
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.traffic.kernel_counters import can_count
from compsgd.settings import VoteSettings
from compsgd.workers.failures import UsageError

DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("auto", "gloo", "nccl")
ATTACKS = ("flip", "random", "constant", "nan")
MODEL_SIZES = ("small", "base")

# What a process decides for itself.
_OWN_AFFAIR = {"log_dir", "dataset_root", "download", "overwrite", "threads"}

# What may be another one when a run is resumed: it changes no weight and no history.
_MAY_CHANGE = _OWN_AFFAIR | {
    "exp_name",
    "backend",
    "timeout",
    "one_plot_optimizer",
    "checkpoint_every",
    "resume",
    "tensorboard",
}

# The settings of the vote among the options, by the names of the command line.
VOTE_OPTIONS = {
    name: name
    for name in (
        "seed",
        "rand_zero",
        "exchange",
        "binning",
        "num_bits",
        "count_usages",
        "strict",
        "compile",
    )
} | {"timeout": "timeout_s"}

Cell = tuple[float, float]


@dataclass(frozen=True)
class Options:
    """The options of `compsgd train`, named as on the command line.

    `vote` holds those that are settings of the vote; `lr` and `weight_decay` span the sweep;
    `weight_decay` is the decay of the range, not L2, and `decay_min` and `decay_max` of None are
    that. `threads` of None leaves the choice to the run.
    """

    vote: VoteSettings
    exp_name: str | None
    log_dir: Path
    overwrite: bool
    model: str
    model_size: str
    tie_embeddings: bool
    context: int
    dataset: str
    dataset_root: Path
    download: bool
    optimizer: str
    batch_size: int
    epochs: int
    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    decay_min: float | None
    decay_max: float | None
    num_workers: int
    shuffle: bool
    batchwise_evaluation: int
    one_plot_optimizer: bool
    verify_bytes: bool
    device: str
    backend: str
    threads: int | None
    checkpoint_every: int
    resume: bool
    adversaries: int
    attack: str
    diagnose: int
    tensorboard: bool

    @property
    def has_range(self) -> bool:
        """Whether the optimizer keeps a range, so that binning, bits and decay mean something."""
        return self.optimizer.startswith("compressed_sgd")

    def cells(self) -> list[Cell]:
        """The (lr, decay) pairs of the sweep, in order; decay 1.0 where it is ignored."""
        if not self.has_range:
            return [(lr, 1.0) for lr in self.lr]
        if self.decay_min is not None and self.decay_max is not None:
            return [(lr, self.decay_max) for lr in self.lr]
        return [(lr, decay) for lr in self.lr for decay in self.weight_decay]

    def vote_of(self, cell: Cell) -> VoteSettings:
        """The settings of the vote in a cell."""
        _, decay = cell
        return replace(
            self.vote,
            decay_min=decay if self.decay_min is None else self.decay_min,
            decay_max=decay if self.decay_max is None else self.decay_max,
        )

    def folder_name(self) -> str:
        """The experiment's name: as given, or made of the settings that tell runs apart."""
        return self.exp_name or "_".join(self._name_parts())

    def _name_parts(self) -> list[str]:
        parts = [self.optimizer, self.dataset, self.model, f"B{self.batch_size}", f"e{self.epochs}"]
        if self.has_range:
            parts += [f"n{self.vote.num_bits}", self.vote.binning]
        if self.optimizer != "sgd" and not self.vote.rand_zero:
            parts.append("zeros")
        parts.append("lr" + "-".join(map(str, self.lr)))
        if self.has_range:
            parts.append("d" + "-".join(map(str, self.weight_decay)))
            parts += [
                f"{side}{value}"
                for side, value in (("dmin", self.decay_min), ("dmax", self.decay_max))
                if value is not None
            ]
        if self.batchwise_evaluation > 0:
            parts.append(f"EvalInterval{self.batchwise_evaluation}")
        if not self.shuffle:
            parts.append("unshuffled")
        if self.vote.exchange != "auto":
            parts.append(self.vote.exchange)
        if self.adversaries:
            parts.append(self.attack_name())
        return [*parts, f"Seed{self.vote.seed}", f"Workers{self.num_workers}"]

    def attack_name(self) -> str:
        return f"{self.adversaries}{self.attack}"

    def lasting(self) -> dict[str, str]:
        """The options that weights and histories depend on, as text, for a checkpoint."""
        return {
            name: text
            for name, text in self.shared().items()
            if name.removeprefix("--") not in _MAY_CHANGE
        }

    def shared(self) -> dict[str, str]:
        """The options that all processes must have alike, as text; those that say where files
        are, or how fast a machine is, may differ."""
        return {
            f"--{name}": str(value)
            for name, value in self.as_dict().items()
            if name not in _OWN_AFFAIR
        }

    def as_dict(self) -> dict[str, Any]:
        """By the names of the command line."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "vote"}
        vote = {option: getattr(self.vote, name) for option, name in VOTE_OPTIONS.items()}
        return {**vote, **own}

    def check(self, rank_info: RankInfo) -> None:
        """Raises UsageError for options that do not go together, or not with what is installed."""
        self._check_workers(rank_info)
        self._check_sweep()
        self._check_folder()
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UsageError(
                "--tensorboard needs a package that is not installed: pip install tensorboard"
            )

    def _check_workers(self, rank_info: RankInfo) -> None:
        if self.num_workers % rank_info.world_size:
            raise UsageError(
                f"--num_workers {self.num_workers} is no multiple of the {rank_info.world_size} "
                "processes that torchrun started"
            )
        if self.adversaries > self.num_workers:
            raise UsageError(
                f"--adversaries {self.adversaries} is more than the {self.num_workers} workers"
            )
        if self.verify_bytes and (rank_info.world_size == 1 or not can_count()):
            raise UsageError(
                "--verify_bytes compares with the kernel's counters of TCP sockets: it needs "
                "several processes, and Linux"
            )

    def _check_sweep(self) -> None:
        if self.diagnose and self.optimizer == "sgd":
            raise UsageError(
                "--diagnose compares ballots and their vote with the mean gradient; sgd has no "
                "ballots and applies the mean itself"
            )
        if len(set(self.cells())) < len(self.cells()):
            raise UsageError("--lr or --weight_decay names a value twice; each cell runs once")
        if None not in (self.decay_min, self.decay_max) and len(self.weight_decay) > 1:
            raise UsageError(
                "--weight_decay lists several values, but --decay_min and --decay_max fix both "
                "sides: there is nothing left to sweep"
            )

    def _check_folder(self) -> None:
        if self.resume and self.overwrite:
            raise UsageError("--resume goes on with what --overwrite deletes; give one of both")
        name = self.folder_name()
        if not re.fullmatch(r"[\w.=,+ -]+", name) or name in (".", ".."):
            raise UsageError(
                f"--exp_name {name!r} must be one folder name of letters, digits and _.-=,+; "
                "--log_dir says where it is created"
            )
        if len(name) > 200:
            raise UsageError(
                f"the name made of these settings is {len(name)} characters long; give --exp_name"
            )

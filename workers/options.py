"""Everything a run can be told, and which combinations make sense."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.traffic.kernel_counters import can_count
from compsgd.optim.optimizers import OPTIMIZERS
from compsgd.settings import VoteSettings, setting_field
from compsgd.workers.failures import UsageError
from compsgd.workers.own_code import SEPARATOR

DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("auto", "gloo", "nccl")
ATTACKS = ("flip", "random", "constant", "nan")
PRECISIONS = ("off", "bf16", "fp16")
MODEL_SIZES = ("small", "base")
# The data set that is a folder of images.
FOLDER = "folder"

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
    "track",
    "check_every",
    "num_chunks",
    "verify_fraction",
    "entropy_coding",
}

# Settings that an optimizer without them refuses. Those of VOTE_OPTIONS it ignores, so that one
# command can be run with every optimizer, as the original scripts do.
REFUSED = (
    "momentum",
    "error_feedback",
    "l2",
    "beta1",
    "beta2",
    "min_compress_numel",
    "exempt_1d",
    "exempt_optimizer",
    "exempt_lr",
)

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
        "check_every",
        "num_chunks",
        "verify_fraction",
        "entropy_coding",
        *REFUSED,
    )
} | {"timeout": "timeout_s"}

Cell = tuple[float, float]


@dataclass(frozen=True)
class Options:
    """The options of `compsgd train`, named as on the command line.

    `vote` holds those that are settings of the vote; `lr` and `range_decay` span the sweep;
    `range_decay` is the decay of the range, not L2, and `decay_min` and `decay_max` of None are
    that. Either `epochs` or `steps` says when the run ends; the other is None. `warmup` is a share
    of all rounds below 1, or a number of them. `clip` of None clips nothing. What a
    worker works through in a round is `accumulate` times `batch_size` items. `threads` of None
    leaves the choice to the run.
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
    image_size: int | None
    download: bool
    optimizer: str
    batch_size: int
    accumulate: int
    amp: str
    epochs: int | None
    steps: int | None
    exempt_embeddings: bool
    lr: tuple[float, ...]
    lr_schedule: str
    warmup: float
    clip: float | None
    range_decay: tuple[float, ...]
    decay_min: float | None
    decay_max: float | None
    num_workers: int
    shuffle: bool
    batchwise_evaluation: int
    evaluate_every: int
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
    track: str | None

    @property
    def has_range(self) -> bool:
        """Whether the optimizer keeps a range, so that binning, bits and decay mean something."""
        return "decay_min" in self._known_settings

    @property
    def has_ballots(self) -> bool:
        """Whether workers vote, so that zeros are broken or kept."""
        return "rand_zero" in self._known_settings

    @property
    def _known_settings(self) -> tuple[str, ...]:
        return OPTIMIZERS[self.optimizer].known_settings

    def cells(self) -> list[Cell]:
        """The (lr, decay) pairs of the sweep, in order; decay 1.0 where it is ignored."""
        if not self.has_range:
            return [(lr, 1.0) for lr in self.lr]
        if self.decay_min is not None and self.decay_max is not None:
            return [(lr, self.decay_max) for lr in self.lr]
        return [(lr, decay) for lr in self.lr for decay in self.range_decay]

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
        parts = [self.optimizer, *self._data_parts(), *self._model_parts(), *self._batch_parts()]
        if self.has_range:
            parts += [f"n{self.vote.num_bits}", self.vote.binning]
        if self.has_ballots and not self.vote.rand_zero:
            parts.append("zeros")
        parts.append("lr" + "-".join(map(str, self.lr)))
        parts += [*self._decay_parts(), *self._schedule_parts(), *self._update_parts()]
        if self.batchwise_evaluation > 0:
            parts.append(f"EvalInterval{self.batchwise_evaluation}")
        if self.evaluate_every:
            parts.append(f"TestInterval{self.evaluate_every}")
        if not self.shuffle:
            parts.append("unshuffled")
        if self.vote.exchange != "auto":
            parts.append(self.vote.exchange)
        if self.adversaries:
            parts.append(self.attack_name())
        return [*parts, f"Seed{self.vote.seed}", f"Workers{self.num_workers}"]

    def _data_parts(self) -> list[str]:
        size = [] if self.image_size is None else [f"i{self.image_size}"]
        return [_as_part(self.dataset), *size]

    def _model_parts(self) -> list[str]:
        if self.model != "gpt":
            return [_as_part(self.model)]
        untied = [] if self.tie_embeddings else ["untied"]
        return [f"{self.model}-{self.model_size}", *untied, f"c{self.context}"]

    def _batch_parts(self) -> list[str]:
        pieces = f"x{self.accumulate}" if self.accumulate > 1 else ""
        precision = [] if self.amp == "off" else [self.amp]
        length = f"e{self.epochs}" if self.steps is None else f"s{self.steps}"
        return [f"B{self.batch_size}{pieces}", *precision, length]

    def _decay_parts(self) -> list[str]:
        if not self.has_range:
            return []
        sides = ("dmin", self.decay_min), ("dmax", self.decay_max)
        both = "d" + "-".join(map(str, self.range_decay))
        return [both, *(f"{side}{value}" for side, value in sides if value is not None)]

    def _schedule_parts(self) -> list[str]:
        schedule = [] if self.lr_schedule == "constant" else [self.lr_schedule]
        return schedule + ([f"w{self.warmup:g}"] if self.warmup else [])

    def _update_parts(self) -> list[str]:
        """Of what differs from the original algorithm; short, as a name has its limits."""
        short = {
            "momentum": "m{:g}",
            "error_feedback": "feedback",
            "l2": "l2={:g}",
            "beta1": "b1={:g}",
            "beta2": "b2={:g}",
            "exempt_1d": "exempt1d",
            "min_compress_numel": "min{}",
            "exempt_optimizer": "exempt-{}",
            "exempt_lr": "exempt-lr{:g}",
        }
        parts = [short[name].format(value) for name, value in self._unusual(REFUSED)]
        if self.clip is not None:
            parts.append(f"clip{self.clip:g}")
        return [*parts, "exempt-embeddings"] if self.exempt_embeddings else parts

    def _unusual(self, names: Sequence[str]) -> list[tuple[str, Any]]:
        """The settings among these that are not the library's defaults, and their values."""
        values = [(name, getattr(self.vote, name)) for name in names]
        return [(name, value) for name, value in values if value != setting_field(name).default]

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
        self._check_data()
        self._check_optimizer()
        self._check_exchange()
        self._check_diagnosis()
        self._check_sweep()
        self._check_folder()
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UsageError(
                "--tensorboard needs a package that is not installed: pip install tensorboard"
            )

    def _check_data(self) -> None:
        if self.image_size is not None and self.dataset != FOLDER:
            raise UsageError(f"--image_size is for --dataset {FOLDER}, and this is {self.dataset}")

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

    def _check_optimizer(self) -> None:
        for name, value in self._unusual(REFUSED):
            if name not in self._known_settings:
                raise UsageError(f"--{name} is {value}, but {self.optimizer} has no {name}")
        if self.exempt_embeddings and not self.has_ballots:
            raise UsageError(f"--exempt_embeddings is true, but {self.optimizer} votes on nothing")
        if self.vote.exempt_lr is not None and 0 in self.lr:
            raise UsageError("--exempt_lr follows the schedule of --lr, which is 0 here")
        if self.amp == "fp16" and self.vote.strict:
            raise UsageError(
                "--strict ends a run at the first gradient that overflows, by which --amp fp16 "
                "finds its loss scale; leave out one of both, or take --amp bf16"
            )

    def _check_exchange(self) -> None:
        for name, asked in (
            ("diagnose", self.diagnose),
            ("verify_fraction", self.vote.verify_fraction),
        ):
            if asked and self.vote.exchange == "hierarchical":
                raise UsageError(
                    f"--{name} takes everybody's ballots, which --exchange hierarchical keeps "
                    "inside each host; take scatter_reduce, with the same results"
                )

    def _check_diagnosis(self) -> None:
        if self.diagnose and not self.has_ballots:
            raise UsageError(
                "--diagnose compares ballots and their vote with the mean gradient; "
                f"{self.optimizer} has no ballots and applies the mean itself"
            )
        vote = self.vote
        if self.diagnose and (vote.exempt_1d or vote.min_compress_numel or self.exempt_embeddings):
            raise UsageError(
                "--diagnose looks at all parameters; leave out --exempt_1d, --exempt_embeddings "
                "and --min_compress_numel"
            )

    def _check_sweep(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise UsageError("--epochs and --steps both say when the run ends; give one of both")
        if len(set(self.cells())) < len(self.cells()):
            raise UsageError("--lr or --range_decay names a value twice; each cell runs once")
        if None not in (self.decay_min, self.decay_max) and len(self.range_decay) > 1:
            raise UsageError(
                "--range_decay lists several values, but --decay_min and --decay_max fix both "
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


def _as_part(name: str) -> str:
    """Of a folder's name: a user's own module:factory has a colon."""
    return name.replace(SEPARATOR, ".")

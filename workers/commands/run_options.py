"""The options of a run: how the command line declares them, and what becomes of them."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from compsgd.checks import check_lr
from compsgd.comm.exchange_choice import EXCHANGES
from compsgd.comm.group.rank_info import RankInfo
from compsgd.errors import CompsgdError, SettingError
from compsgd.optim.optimizers import OPTIMIZERS
from compsgd.settings import (
    Choice,
    Flag,
    Integer,
    Name,
    OptionalInteger,
    VoteSettings,
    setting_field,
)
from compsgd.workers.commands.config_file import take_options
from compsgd.workers.commands.path_option import PathOption
from compsgd.workers.commands.spreading import HeadedOption, IntegerRange, flag_option
from compsgd.workers.data.datasets import DATASETS
from compsgd.workers.options import (
    ATTACKS,
    BACKENDS,
    DEVICES,
    MODEL_SIZES,
    PRECISIONS,
    VOTE_OPTIONS,
    Options,
)
from compsgd.workers.own_code import is_own
from compsgd.workers.recipes import RECIPES, describe_default
from compsgd.workers.train.models import MODELS
from compsgd.workers.train.schedule import SCHEDULES, check_warmup

# The original's, which its sample scripts have.
_OLDER_NAME = "weight_decay"
_DEFAULT_NUM_WORKERS = 4
_DEFAULT_EPOCHS = 40
_DEFAULT_TIMEOUT_S = 300.0
# What the names of a setting stand in that is known further down only by its name.
_REGISTRIES = {"exchange": EXCHANGES}
_TIMEOUTS = setting_field("timeout_s").metadata["kind"]
_TIMEOUTS_S = _TIMEOUTS.at_least, _TIMEOUTS.at_most


class AutoOr(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks only
    """A number from `minimum` to `maximum`, or `auto`, which becomes None."""

    name = "number"

    def __init__(self, kind: type[int] | type[float], minimum: float, maximum: float) -> None:
        self._kind = kind
        self._minimum = minimum
        self._maximum = maximum

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value == "auto":
            return None
        try:
            number = self._kind(value)
        except ValueError:
            self.fail(f"{value!r} is neither auto nor a number", param, ctx)
        if not self._minimum <= number <= self._maximum:
            self.fail(f"{value} is not from {self._minimum} to {self._maximum:,}", param, ctx)
        return number


class Own(click.ParamType):  # type: ignore[type-arg]
    """A user's own module:factory."""

    name = "MODULE:FACTORY"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not re.fullmatch(r"[\w.]+:[\w.]+", value):
            self.fail(f"{value!r} is no MODULE:FACTORY, as in my_module:build", param, ctx)
        return value


class NameOrOwn(click.Choice):  # type: ignore[type-arg]
    """One of some names, or a user's own module:factory."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, str) and is_own(value):
            return Own().convert(value, param, ctx)
        return super().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: Any = None) -> str | None:
        return f"[{'|'.join(map(str, self.choices))}|MODULE:FACTORY]"


class Checked(click.ParamType):  # type: ignore[type-arg]
    """A float that one of the library's own checks accepts."""

    name = "float"

    def __init__(self, check: Callable[[float], Any]) -> None:
        self._check = check

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return self._check(float(value))
        except CompsgdError as error:
            self.fail(str(error), param, ctx)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)


def check_clip(value: float) -> float:
    """A norm above 0."""
    if not (math.isfinite(value) and value > 0):
        raise SettingError(f"clip is {value:g}; it must be a number above 0")
    return value


def _setting(name: str, **changes: Any) -> Any:
    """The option of a setting of the vote: its type, default and help are written there."""
    one = setting_field(name)
    words = {"default": one.default, "help": one.metadata["help"]} | changes
    if isinstance(one.metadata["kind"], Flag):
        return flag_option(f"--{name}", **words)
    return _option(f"--{name}", type=_type(name), **words)


def _type(setting: str, option: str | None = None) -> Any:
    """What values a setting takes; an option of another name may take the same."""
    kind = setting_field(setting).metadata["kind"]
    if isinstance(kind, Integer):
        return IntegerRange(kind.at_least, kind.at_most)
    if isinstance(kind, OptionalInteger):
        return AutoOr(int, kind.integer.at_least, kind.integer.at_most or math.inf)
    if isinstance(kind, Name):
        return click.Choice(tuple(_REGISTRIES[setting]))
    if isinstance(kind, Choice):
        return click.Choice(tuple(kind.names))
    return Checked(lambda value: kind.check(option or setting, value))


def _by_optimizer(option: str) -> dict[str, Any]:
    """The default of an option that is the optimizer's recipe's."""
    return {"default": None, "show_default": describe_default(option)}


def _option(*names: str, **settings: Any) -> Any:
    settings.setdefault("show_default", True)
    return click.option(*names, cls=HeadedOption, **settings)


_START = [
    _option("--config", type=PathOption(), is_eager=True, expose_value=False,
            callback=take_options, show_default=False,
            help="A TOML file of options by their names, or the config.json of a run, to repeat "
            "it. The command line wins."),
    flag_option("--dry_run", default=False,
          help="Show the options, the parameters, the bytes of a step and the memory, and stop."),
]  # fmt: skip

_DATA = [
    _option("--dataset", type=NameOrOwn(DATASETS), default="digits",
            help="digits comes with compsgd; folder holds images in train/CLASS and "
            "test/CLASS, text is yours, stdlib the source of Python's own standard library; "
            "MODULE:FACTORY makes your own; the others are torchvision's."),
    _option("--dataset_root", type=PathOption(), default=Path("data"),
            help="Where torchvision's files are, or those of folder; of text a UTF-8 file, or a "
            "folder whose *.txt are read, its validation.txt being held out."),
    flag_option("--download", default=True, help="Download what is missing; verify and unpack it."),
    _option("--image_size", type=IntegerRange(min=1), default=None,
            show_default="as they are, all alike",
            help="Height and width that the images of folder are scaled and cut to."),
    _option("--context", type=IntegerRange(min=1), default=64,
            help="Tokens of a sequence, for text."),
    _option("--batch_size", type=IntegerRange(min=1), default=64,
            help="Images per worker, or sequences of text; the last of an epoch is what is left."),
    flag_option("--shuffle", default=True, help="Reshuffle each epoch."),
]  # fmt: skip

_MODEL = [
    _option("--model", type=NameOrOwn(MODELS), default="vanilla_cnn",
            help="What is trained; MODULE:FACTORY makes your own."),
    _option("--model_size", type=click.Choice(MODEL_SIZES), default="small",
            help="Of gpt: small has 64 channels and 3 layers, base about a million parameters."),
    flag_option("--tie_embeddings", default=True, help="Whether gpt's head is its embedding."),
]  # fmt: skip

_TRAINING = [
    _option("--optimizer", type=click.Choice(tuple(OPTIMIZERS)), default="compressed_sgd_vote",
            help="How gradients become an update."),
    _option("--epochs", type=IntegerRange(min=1), default=None,
            show_default=f"{_DEFAULT_EPOCHS}, or what --steps makes",
            help="Passes over the data."),
    _option("--steps", type=IntegerRange(min=1), default=None, show_default="--epochs",
            help="Rounds after which the run ends, even inside an epoch; instead of --epochs."),
    _option("--lr", type=Checked(check_lr), multiple=True, **_by_optimizer("lr"),
            help="Learning rates, as in --lr 0.003 0.001. A level moves a weight by this much."),
    _option("--lr_schedule", type=click.Choice(tuple(SCHEDULES)), **_by_optimizer("lr_schedule"),
            help="How the learning rate goes on behind the warm-up: as it is, or down to 0 at the "
            "end of the run, on a line or half a cosine."),
    _option("--warmup", type=Checked(check_warmup), **_by_optimizer("warmup"),
            help="Rounds in which the learning rate rises to --lr; below 1 a share of all rounds."),
    _option("--accumulate", type=IntegerRange(min=1), default=1,
            help="So many batches of a worker, one after another, make its gradient of a round; in "
            "the last round of an epoch fewer, if no more are left."),
    _option("--amp", type=click.Choice(PRECISIONS), default="off",
            help="Mixed precision of the forward pass, by torch.autocast; with fp16 every worker "
            "has a loss scale."),
    _option("--clip", type=Checked(check_clip), default=None, show_default="nothing is clipped",
            help="Largest norm of a worker's gradient, which is scaled down to it."),
    _setting("momentum", **_by_optimizer("momentum")),
    _setting("l2", **_by_optimizer("l2")),
    _setting("beta1"),
    _setting("beta2"),
    _setting("seed"),
]  # fmt: skip

_COMPRESSION = [
    _setting("num_bits"),
    _setting("binning"),
    _option("--range_decay", type=_type("decay_min", "range_decay"), multiple=True,
            **_by_optimizer("range_decay"),
            help="Decays of the range, minimum and maximum alike, as in --range_decay 1.0 0.7. "
            "Not L2. The sweep runs every pair with --lr."),
    _option(f"--{_OLDER_NAME}", type=_type("decay_min", _OLDER_NAME), multiple=True, hidden=True),
    _option("--decay_min", type=_type("decay_min"), default=None, show_default="--range_decay",
            help="Decay of the minimum alone."),
    _option("--decay_max", type=_type("decay_max"), default=None, show_default="--range_decay",
            help="Decay of the maximum alone."),
    _setting("rand_zero"),
    _setting("error_feedback"),
    _setting("exempt_1d"),
    flag_option("--exempt_embeddings", default=False,
          help="Whether embeddings are averaged, too: rows that a batch does not touch then stay "
          "where they are."),
    _setting("min_compress_numel"),
    _setting("exempt_optimizer"),
    _setting("exempt_lr", show_default="--lr"),
    _setting("compile"),
]  # fmt: skip

_COMMUNICATION = [
    _option("--num_workers", type=IntegerRange(min=1), default=None,
            show_default=f"{_DEFAULT_NUM_WORKERS}; under torchrun the number of processes",
            help="Workers; under torchrun a multiple of the processes."),
    _setting("exchange"),
    _setting("entropy_coding"),
    _setting("num_chunks", default="auto",
             help=setting_field("num_chunks").metadata["help"].replace("None", "auto")),
    _option("--device", type=click.Choice(DEVICES), default="auto",
            help="auto takes a GPU where every process has one."),
    _option("--backend", type=click.Choice(BACKENDS), default="auto",
            help="auto takes nccl on GPUs, gloo on CPUs."),
    _option("--threads", type=AutoOr(int, 1, 4096), default="auto",
            help="Threads of each process; auto shares the cores out."),
    _option("--timeout", type=AutoOr(float, *_TIMEOUTS_S), default="auto",
            help=f"Seconds a gradient collective may take; auto is {_DEFAULT_TIMEOUT_S:g}."),
]  # fmt: skip

_RESULTS = [
    _option("--exp_name", default=None, show_default="a name made of the settings",
            help="Folder of the results under --log_dir."),
    _option("--log_dir", type=PathOption(), default=Path("logs"),
            help="Where experiments are kept."),
    flag_option("--overwrite", default=False, help="Replace an existing experiment of this name."),
    flag_option("--resume", default=False,
          help="Go on from the checkpoint of this experiment, with any number of processes."),
    _option("--checkpoint_every", type=IntegerRange(min=0), default=0,
            help="Rounds between checkpoints; 0 for none but those after every epoch and on "
            "SIGINT or SIGTERM."),
    _option("--evaluate_every", type=IntegerRange(min=0), default=0,
            help="Rounds between evaluations on the test set, with one more at the end; 0 for one "
            "after every epoch."),
    _option("--batchwise_evaluation", type=int, default=0,
            help="After every worker has received this many batches, evaluate on the entire "
            "training set; 0 or less disables."),
    _setting("count_usages"),
    _option("--diagnose", type=IntegerRange(min=0), default=0,
            help="Every so many rounds, record how far the workers agree and how far the vote "
            "points from the true mean gradient; 0 for never. Not for sgd and adamw, which have no "
            "ballots."),
    flag_option("--one_plot_optimizer", default=False,
          help="All cells of the sweep in one axis, or one axis each."),
    flag_option("--tensorboard", default=False,
          help="Also write what TensorBoard shows, into the experiment's tensorboard/."),
    _option("--track", type=Own(), default=None, show_default="nothing",
            help="MODULE:FACTORY makes a tracker of your own, as of W&B or MLflow, which is told "
            "of every step and epoch."),
]  # fmt: skip

_ROBUSTNESS = [
    _setting("strict"),
    _setting("check_every"),
    _setting("verify_fraction"),
    flag_option("--verify_bytes", default=False,
          help="Read the kernel's own counters around the run and compare them with the ledger."),
    _option("--adversaries", type=IntegerRange(min=0), default=0,
            help="How many workers, the last ones, attack the others."),
    _option("--attack", type=click.Choice(ATTACKS), default="flip",
            help="What they send: the negative of their gradient, a random one, one that is 1 "
            "everywhere (the largest level), or NaN."),
]  # fmt: skip

# In the order of use, by their headings in the help.
_OPTIONS = {
    "Start": _START,
    "Data": _DATA,
    "Model": _MODEL,
    "Training": _TRAINING,
    "Compression": _COMPRESSION,
    "Communication": _COMMUNICATION,
    "Results": _RESULTS,
    "Robustness": _ROBUSTNESS,
}


def read_options(values: dict[str, Any], rank_info: RankInfo) -> Options:
    """What the command line said, with the defaults that depend on other options.

    Raises:
        SettingError: a setting of the vote that it does not take.
    """
    values.pop("dry_run")
    older = values.pop(_OLDER_NAME)
    if older:
        _warn_of_older_name(rank_info)
        values["range_decay"] += older
    if values["num_workers"] is None:
        values["num_workers"] = rank_info.world_size if rank_info.launched else _DEFAULT_NUM_WORKERS
    if values["timeout"] is None:
        values["timeout"] = _DEFAULT_TIMEOUT_S
    if values["epochs"] is None and values["steps"] is None:
        values["epochs"] = _DEFAULT_EPOCHS
    for name, usual in RECIPES[values["optimizer"]].as_options().items():
        # An option that may be repeated, and is not given, is an empty tuple.
        if values[name] in (None, ()):
            values[name] = usual
    vote = VoteSettings(**{name: values.pop(option) for option, name in VOTE_OPTIONS.items()})
    return Options(vote=vote, **values)


def _warn_of_older_name(rank_info: RankInfo) -> None:
    if rank_info.local_rank == 0:
        click.echo(
            f"--{_OLDER_NAME}, the original's name of --range_decay, is the decay of the range; it "
            "is no L2, which is --l2",
            err=True,
        )


def with_options(command: click.Command) -> click.Command:
    for heading, declarations in _OPTIONS.items():
        for declare in declarations:
            declare(command)
        for option in command.params[-len(declarations) :]:
            assert isinstance(option, HeadedOption), "all are declared here"
            option.heading = heading
    return command

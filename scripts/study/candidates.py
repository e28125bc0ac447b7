"""What is compared in the study: how gradients become an update, and the learning rates tried.

All methods have the same budget: five learning rates around a centre of their own, a factor of 2
apart. Where the best of them is at an edge of its grid, two more beyond it are tried, once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks import IMAGES, TEXT, Options

STEP = 2.0
REACH = 2
FURTHER = 2

TRAIN, DDP, LION = "train", "ddp", "lion"


@dataclass(frozen=True)
class Method:
    """
    Attributes:
        name: in the tables, and of folders.
        program: what runs it: `compsgd train`, ddp_run.py or lion_run.py.
        centres: of the learning rates, by the kind of a task.
        options: of its runs; they win over those of the task.
        by_kind: more of them, by the kind of a task.
        is_baseline: whether others of as many workers are compared with it: it sends float32.
    """

    name: str
    program: str
    centres: Mapping[str, float] = field(hash=False)
    options: Options = field(hash=False)
    by_kind: Mapping[str, Options] = field(default_factory=dict, hash=False)
    is_baseline: bool = False

    def lr(self, kind: str, place: int) -> float:
        """So many factors above the centre, or below."""
        return float(f"{self.centres[kind] * STEP**place:.4g}")

    def at(self, kind: str, lr: float) -> dict[str, Any]:
        """The options of a run with this learning rate."""
        options = {**self.options, **self.by_kind.get(kind, {}), "lr": lr}
        if self.program == TRAIN and options.get("exempt_1d"):
            options["exempt_lr"] = lr * _largest_level(options)
        return options


def _largest_level(options: Options) -> int:
    """So far, times the learning rate, a step moves what is voted on at most; what is exempt moves
    as far."""
    return 1 if options["optimizer"] == "sign_sgd" else int(2 ** (options["num_bits"] - 1))


def _centres(text: float, images: float) -> dict[str, float]:
    return {TEXT: text, IMAGES: images}


# Those of images are the best of a first search, with 2 epochs.
_ADAMW_CENTRES = _centres(5e-3, 8e-3)
_SGD_CENTRES = _centres(0.5, 0.3)
_MOMENTUM_CENTRES = _centres(0.4, 0.2)
_SIGN_CENTRES = _centres(1e-3, 1.2e-3)
_HOOK_ADAM_CENTRES = _centres(3e-3, 4e-3)

_ADAMW = {"optimizer": "adamw", "beta2": 0.99, "l2": 0.01}
_VOTE = {
    "optimizer": "compressed_sgd_vote", "momentum": 0.9, "weight_decay": 0.99, "exempt_1d": True,
}  # fmt: skip


def _vote(name: str, num_bits: int, **changes: Any) -> Method:
    """The vote as we recommend it, but for some changes. Its largest step is about the same with
    any number of bits."""
    largest = 2 ** (num_bits - 1)
    centres = _centres(5.6e-3 / largest, 4.8e-3 / largest)
    return Method(name, TRAIN, centres, _VOTE | {"num_bits": num_bits} | changes)


# Another program's AdamW and SGD, behind DistributedDataParallel.
_OUTER_ADAMW = {"outer": "adamw", "beta1": 0.9, "beta2": 0.99, "l2": 0.01}
_OUTER_SGD = {"outer": "sgd", "outer_momentum": 0.9}
_HOOK = {
    "hook": "vote", "momentum": 0.9, "weight_decay": 0.99, "exempt_1d": True,
}  # fmt: skip
# As the running means are the vote's, Adam has none.
_BEHIND_HOOK = _OUTER_ADAMW | {"beta1": 0.0}


def _peer(name: str, **options: Any) -> Method:
    """A hook of torch's, before the float32 optimizer that is better on the task."""
    centres = {TEXT: _ADAMW_CENTRES[TEXT], IMAGES: _MOMENTUM_CENTRES[IMAGES]}
    return Method(name, DDP, centres, options, {TEXT: _OUTER_ADAMW, IMAGES: _OUTER_SGD})


_ALL = (
    # float32
    Method("sgd", TRAIN, _SGD_CENTRES, {"optimizer": "sgd", "momentum": 0.0}, is_baseline=True),
    Method("sgdm", TRAIN, _MOMENTUM_CENTRES, {"optimizer": "sgd", "momentum": 0.9},
           is_baseline=True),
    Method("adamw", TRAIN, _ADAMW_CENTRES, _ADAMW, is_baseline=True),
    # 1 bit, as published
    Method("sign_sgd", TRAIN, _SIGN_CENTRES, {"optimizer": "sign_sgd", "momentum": 0.0}),
    Method("signum", TRAIN, _SIGN_CENTRES, {"optimizer": "sign_sgd", "momentum": 0.9}),
    # ours
    *(_vote(f"vote{bits}", bits) for bits in (1, 2, 3, 4, 8)),
    # one switch at a time
    _vote("vote3_no_momentum", 3, momentum=0.0),
    _vote("vote3_momentum_0.95", 3, momentum=0.95),
    _vote("vote3_error_feedback", 3, error_feedback=True),
    _vote("vote3_no_exemption", 3, exempt_1d=False),
    _vote("vote3_embeddings_exempt", 3, exempt_embeddings=True),
    _vote("vote3_zeros_kept", 3, rand_zero=False),
    _vote("vote3_decay_0.9", 3, weight_decay=0.9),
    _vote("vote3_decay_0.999", 3, weight_decay=0.999),
    _vote("vote3_decay_1.0", 3, weight_decay=1.0),
    _vote("vote3_mean", 3, optimizer="compressed_sgd"),
    _vote("vote3_l2_0.1", 3, l2=0.1),
    _vote("vote1_error_feedback", 1, error_feedback=True),
    Method("vote3_as_published", TRAIN, _centres(2.5e-4, 1.5e-4), {
        "optimizer": "compressed_sgd_vote", "num_bits": 3, "momentum": 0.0, "weight_decay": 0.3,
        "exempt_1d": False, "lr_schedule": "constant", "warmup": 0,
    }),
    # as many batches a worker, so that more workers see more data
    _vote("vote3_n8", 3, num_workers=8),
    Method("adamw_n8", TRAIN, _ADAMW_CENTRES, _ADAMW | {"num_workers": 8}, is_baseline=True),
    _vote("vote3_n16", 3, num_workers=16),
    Method("adamw_n16", TRAIN, _ADAMW_CENTRES, _ADAMW | {"num_workers": 16}, is_baseline=True),
    # the hook
    Method("ddp_adamw", DDP, _ADAMW_CENTRES, {"hook": "none"} | _OUTER_ADAMW),
    Method("hook_adamw_vote3", DDP, _HOOK_ADAM_CENTRES, _HOOK | _BEHIND_HOOK | {"num_bits": 3}),
    Method("hook_adamw_vote1", DDP, _HOOK_ADAM_CENTRES, _HOOK | _BEHIND_HOOK | {"num_bits": 1}),
    Method("hook_sgd_vote3", DDP, _SGD_CENTRES,
           _HOOK | {"outer": "sgd", "outer_momentum": 0.0, "num_bits": 3}),
    # peers
    _peer("powersgd1", hook="powersgd", powersgd_rank=1),
    _peer("powersgd2", hook="powersgd", powersgd_rank=2),
    _peer("fp16", hook="fp16"),
    # Its steps are smaller than AdamW's, and its decay larger, so that their product is the same.
    Method("lion", LION, _SIGN_CENTRES, {"beta1": 0.9, "beta2": 0.99, "l2": 0.05}),
)  # fmt: skip
METHODS = {method.name: method for method in _ALL}

"""What the benchmarks of steps time: models, ways to combine their gradients, and the clock.

Ranks of `step.py` and `network.py` run this file (netlab.ask_ranks).
"""

import contextlib
import gc
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from netlab import answer
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm import register_vote_hook
from compsgd.comm.traffic.kernel_counters import count_bytes, open_sockets
from compsgd.workers.data.datasets import IMAGE_FORMATS
from compsgd.workers.data.splits import TextFormat
from compsgd.workers.train.models import build_model

ALONE = "no communication"
STEP, EXCHANGE = KINDS = ("step", "exchange")
VOTE_BITS = (1, 2, 3, 4, 8)
EXCHANGES = ("all_gather", "scatter_reduce")
ONE_BUCKET = ", one bucket"
CODED = "coded"
_ONE_BUCKET_MB, _BUCKET_MB = 1000, 25
# torch's PowerSGD averages twice before it begins.
_WARM_UP_STEPS = 4
_TIMEOUT = timedelta(minutes=30)
_SEED = 0
_CONTEXT, _SEQUENCES = 64, 8

Hook = Callable[[DistributedDataParallel], object]


# Ways to combine gradients, by name.


def _no_hook(ddp: DistributedDataParallel) -> None:
    pass


def _powersgd(rank: int) -> Hook:
    def register(ddp: DistributedDataParallel) -> None:
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=rank, start_powerSGD_iter=2
        )
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)

    return register


def _vote(num_bits: int, **settings: Any) -> Hook:
    """As recommended for a user of SGD with momentum (docs/choosing_settings.md)."""
    return lambda ddp: register_vote_hook(
        ddp, num_bits=num_bits, scale="mean_abs", momentum=0.9, exempt_1d=True, **settings
    )


def vote_name(num_bits: int, *more: str) -> str:
    return ", ".join([f"vote, {num_bits} bit{'s' if num_bits > 1 else ''}", *more])


HOOKS: dict[str, Hook] = {
    "float32": _no_hook,
    "bf16": lambda ddp: ddp.register_comm_hook(None, default_hooks.bf16_compress_hook),
    "fp16": lambda ddp: ddp.register_comm_hook(None, default_hooks.fp16_compress_hook),
    # torch's aborts with several buckets over gloo.
    f"PowerSGD 1{ONE_BUCKET}": _powersgd(1),
    f"PowerSGD 2{ONE_BUCKET}": _powersgd(2),
    **{vote_name(num_bits): _vote(num_bits) for num_bits in VOTE_BITS},
    **{
        vote_name(num_bits, exchange): _vote(num_bits, exchange=exchange)
        for num_bits in VOTE_BITS
        for exchange in EXCHANGES
    },
    **{
        vote_name(num_bits, CODED): _vote(num_bits, entropy_coding="on")
        for num_bits in VOTE_BITS[1:]
    },
}


# Models, by name, with a batch for each process.


def _resnet18(generator: torch.Generator) -> tuple[nn.Module, Tensor, Tensor]:
    """11.7 M parameters on 8 small images."""
    torch.manual_seed(_SEED)
    images = torch.randn(8, 3, 32, 32, generator=generator)
    return (
        torchvision.models.resnet18(),
        images,
        torch.randint(1000, (8,), generator=generator),
    )


def _vanilla_cnn(generator: torch.Generator) -> tuple[nn.Module, Tensor, Tensor]:
    """3.2 M parameters on 64 images of MNIST's size."""
    model = build_model("vanilla_cnn", IMAGE_FORMATS["MNIST"], _SEED)
    images = torch.randn(64, 1, 28, 28, generator=generator)
    return model, images, torch.randint(10, (64,), generator=generator)


def _gpt(generator: torch.Generator) -> tuple[nn.Module, Tensor, Tensor]:
    """About 1 M parameters on 8 sequences of 64 characters."""
    vocabulary = "".join(map(chr, range(32, 32 + 96)))
    model = build_model("gpt", TextFormat(vocabulary, _CONTEXT), _SEED, size="base")
    tokens = torch.randint(len(vocabulary), (_SEQUENCES, _CONTEXT + 1), generator=generator)
    return model, tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


MODELS = {"resnet18": _resnet18, "vanilla_cnn": _vanilla_cnn, "gpt": _gpt}


class _Bare(nn.Module):
    """The parameters of a model without its work: backward hands out gradients at once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.values = nn.ParameterList(one.detach().clone() for one in model.parameters())

    def forward(self) -> Tensor:
        return torch.stack([(one * one).sum() for one in self.values]).sum()


class Training:
    """One model on its way, with one way to combine its gradients."""

    def __init__(self, model: str, method: str, kind: str) -> None:
        generator = torch.Generator().manual_seed(dist.get_rank())
        net, self._inputs, self._targets = MODELS[model](generator)
        self._is_bare = kind == EXCHANGE
        bucket_cap_mb = _ONE_BUCKET_MB if method.endswith(ONE_BUCKET) else _BUCKET_MB
        # All ranks have made the same weights; over a slow link sending them takes long.
        self.ddp = DistributedDataParallel(
            _Bare(net) if self._is_bare else net, bucket_cap_mb=bucket_cap_mb, init_sync=False
        )
        self._is_quiet = method == ALONE
        if not self._is_quiet:
            HOOKS[method if method in HOOKS else method.removesuffix(ONE_BUCKET)](self.ddp)
        # The vote has momentum in the hook, and so none here.
        momentum = 0.0 if method.startswith("vote") else 0.9
        self._optimizer = torch.optim.SGD(self.ddp.parameters(), lr=1e-3, momentum=momentum)

    def step(self) -> None:
        self._optimizer.zero_grad()
        with self.ddp.no_sync() if self._is_quiet else contextlib.nullcontext():
            self._loss().backward()
        self._optimizer.step()

    def _loss(self) -> Tensor:
        if self._is_bare:
            loss: Tensor = self.ddp()
            return loss
        scores = self.ddp(self._inputs)
        return nn.functional.cross_entropy(scores.flatten(0, -2), self._targets.flatten())


@dataclass(frozen=True)
class Timed:
    """What a step takes.

    Attributes:
        median_s: of so many steps.
        sent_bytes: by this process in a step, as the kernel has counted them.
    """

    method: str
    kind: str
    median_s: float
    num_steps: int
    sent_bytes: float


def time_in_turns(trainings: dict[str, Training], kind: str, num_steps: int) -> list[Timed]:
    """All of them in turns, so that what else the machine does meets all."""
    times: dict[str, list[float]] = {method: [] for method in trainings}
    sent: dict[str, int] = dict.fromkeys(trainings, 0)
    for is_timed in [False] * _WARM_UP_STEPS + [True] * num_steps:
        for method, training in trainings.items():
            seconds, sent_bytes = _timed_step(training)
            if is_timed:
                times[method].append(seconds)
                sent[method] += sent_bytes
    return [
        Timed(method, kind, statistics.median(all_), len(all_), sent[method] / len(all_))
        for method, all_ in times.items()
    ]


def time_alone(
    training: Training, method: str, kind: str, budget_s: float, most_steps: int
) -> Timed:
    """One after the other, as many steps as a budget allows, but one: several would not fit into
    memory side by side."""
    for _ in range(_WARM_UP_STEPS if "PowerSGD" in method else 1):
        training.step()
    times, sent = [], 0
    while not times or (len(times) < most_steps and _agree(sum(times)) < budget_s):
        seconds, sent_bytes = _timed_step(training)
        times.append(seconds)
        sent += sent_bytes
    return Timed(method, kind, statistics.median(times), len(times), sent / len(times))


def _timed_step(training: Training) -> tuple[float, int]:
    """Seconds and bytes of a step, from when all are ready until all are done."""
    sockets = open_sockets()
    dist.barrier()
    before = count_bytes(sockets).sent_bytes
    dist.barrier()
    began = time.perf_counter()
    training.step()
    dist.barrier()
    seconds = time.perf_counter() - began
    return seconds, count_bytes(sockets).sent_bytes - before


def _agree(seconds: float) -> float:
    """The longest of all processes'."""
    longest = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    return float(longest)


def measure(
    model: str,
    methods: Sequence[str],
    kinds: Sequence[str],
    *,
    in_turns: bool,
    num_steps: int,
    budget_s: float,
) -> list[dict[str, Any]]:
    """Times each way to combine gradients; in a process with the environment of a rank."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    found: list[Timed] = []
    for kind in kinds:
        if in_turns:
            trainings = {method: Training(model, method, kind) for method in methods}
            found += time_in_turns(trainings, kind, num_steps)
            continue
        for method in methods:
            training = Training(model, method, kind)
            found.append(time_alone(training, method, kind, budget_s, num_steps))
            del training
            gc.collect()
    dist.barrier()
    dist.destroy_process_group()
    return [vars(one) for one in found]


if __name__ == "__main__":
    answer(measure)

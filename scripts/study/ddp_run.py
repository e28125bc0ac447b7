"""A run through DistributedDataParallel, a process for each worker: plain, or with a hook.

python scripts/study/ddp_run.py --hook powersgd --outer adamw --model gpt --dataset text ...

All hooks get one bucket, as torch's PowerSGD aborts with several over gloo. The bytes of our hook
are those of its ledger. Those of the others are a ring all-reduce of what they reduce, float32 or
float16: gloo's, and NCCL's for large messages, sends 2 (N - 1) / N of it.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch
import torch.distributed as dist
from loop import train
from problem import Problem, problem_options
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm import Collectives, Ledger, Purpose, register_vote_hook
from compsgd.comm.traffic.cost import ring_all_reduce
from compsgd.workers.launch.spawning import start_processes

_ONE_BUCKET_MB = 1000
_POWERSGD_START = 2


@dataclass(frozen=True)
class Settings:
    """The options that say how gradients are exchanged, and what moves the model."""

    hook: str
    num_bits: int
    momentum: float
    weight_decay: float
    exempt_1d: bool
    powersgd_rank: int
    outer: str
    outer_momentum: float
    beta1: float
    beta2: float
    l2: float


class DdpClient:
    """One worker a process, whose gradients are exchanged during its backward pass."""

    def __init__(self, model: nn.Module, settings: Settings, seed: int) -> None:
        self.hosted: Sequence[int] = (dist.get_rank(),)
        self._ddp = DistributedDataParallel(model, bucket_cap_mb=_ONE_BUCKET_MB)
        self._optimizer = _outer(model, settings)
        self._num_steps = 0
        self._total_bytes = _HOOKS[settings.hook](self._ddp, settings, seed)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self._ddp(inputs)
        return outputs

    def end_backward(self, slot: int) -> None:
        self._num_steps += 1

    def step(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def bytes_per_step(self) -> float:
        return self._total_bytes(self._num_steps) / self._num_steps


def _outer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Its learning rate comes with every step."""
    if settings.outer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.0, momentum=settings.outer_momentum)
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(model.parameters(), lr=0.0, betas=betas, weight_decay=settings.l2)


# Each registers a hook, and gives what says how many bytes so many steps have sent.
TotalBytes = Callable[[int], float]


def _plain(ddp: DistributedDataParallel, settings: Settings, seed: int) -> TotalBytes:
    ring = _ring(ddp)
    return lambda num_steps: float(num_steps * ring)


def _fp16(ddp: DistributedDataParallel, settings: Settings, seed: int) -> TotalBytes:
    ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    ring = _ring(ddp)
    return lambda num_steps: num_steps * ring / 2


def _powersgd(ddp: DistributedDataParallel, settings: Settings, seed: int) -> TotalBytes:
    """In its first iterations it reduces everything; it counts the rest itself."""
    state = powerSGD_hook.PowerSGDState(
        None, settings.powersgd_rank, start_powerSGD_iter=_POWERSGD_START, random_seed=seed
    )
    ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    ring = _ring(ddp)

    def total_bytes(num_steps: int) -> float:
        _, before, after = state.compression_stats()
        num_plain = min(num_steps, _POWERSGD_START)
        share = after / before if before else 0.0
        return ring * (num_plain + (num_steps - num_plain) * share)

    return total_bytes


def _vote(ddp: DistributedDataParallel, settings: Settings, seed: int) -> TotalBytes:
    state = register_vote_hook(
        ddp,
        scale="mean_abs",
        num_bits=settings.num_bits,
        momentum=settings.momentum,
        decay_min=settings.weight_decay,
        decay_max=settings.weight_decay,
        exempt_1d=settings.exempt_1d,
        seed=seed,
    )
    return lambda num_steps: num_steps * state.bytes_per_step


_HOOKS: dict[str, Callable[[DistributedDataParallel, Settings, int], TotalBytes]] = {
    "none": _plain,
    "fp16": _fp16,
    "powersgd": _powersgd,
    "vote": _vote,
}


def _ring(ddp: DistributedDataParallel) -> int:
    """Bytes of a ring all-reduce of all gradients in float32."""
    numel = sum(parameter.numel() for parameter in ddp.parameters())
    return ring_all_reduce(numel, dist.get_world_size())


def _run(problem: Problem, settings: Settings) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo")
    dataset = problem.load()
    model = problem.build(dataset)
    client = DdpClient(model, settings, problem.seed)
    peers = Collectives(Ledger(), Purpose.EVALUATION, problem.num_workers, dist.group.WORLD)
    train(problem, dataset, model, client, peers)
    dist.destroy_process_group()


@click.command()
@problem_options
@click.option("--hook", type=click.Choice(tuple(_HOOKS)), default="none")
@click.option("--num_bits", type=int, default=3)
@click.option("--momentum", type=float, default=0.0)
@click.option("--weight_decay", type=float, default=1.0)
@click.option("--exempt_1d", type=bool, default=False)
@click.option("--powersgd_rank", type=int, default=1)
@click.option("--outer", type=click.Choice(["adamw", "sgd"]), default="adamw")
@click.option("--outer_momentum", type=float, default=0.0)
@click.option("--beta1", type=float, default=0.9)
@click.option("--beta2", type=float, default=0.99)
@click.option("--l2", type=float, default=0.0)
def main(problem: Problem, **settings: Any) -> None:
    """Trains, and writes result.json and histories.pkl as `compsgd train` does."""
    start_processes(problem.num_workers, _run, problem, Settings(**settings))


if __name__ == "__main__":
    sys.exit(main())

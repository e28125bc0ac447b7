"""Compiling before the first step: once for each machine, and alike on all processes."""

import logging
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compsgd.codec.compiling import Inductor, choose
from compsgd.codec.wire import RoundFormat
from compsgd.comm.group.messages import gather_messages
from compsgd.comm.group.process_group import Network
from compsgd.comm.group.rank_info import RankInfo
from compsgd.errors import CompsgdError
from compsgd.kinds import TEXT, Optional
from compsgd.layout import shard_numel
from compsgd.optim.optimizers import OPTIMIZERS
from compsgd.startup import announce
from compsgd.voting.exchange import Arrival, InProcessExchange
from compsgd.workers.failures import RunError
from compsgd.workers.options import Options
from compsgd.workers.train.training import build_optimizer

log = logging.getLogger("compsgd")


@dataclass(frozen=True)
class Preparation:
    """Which kernels of a run are compiled, and what that took here.

    Attributes:
        choice: "on", "native" or "off", for the optimizers' argument `compile`.
        seconds: of compiling.
    """

    choice: str
    seconds: float

    @property
    def is_compiled(self) -> bool:
        """Whether by torch.compile: that may change what a logarithm rounds to."""
        return self.choice == "on"


class _Rehearsal(InProcessExchange):
    """An exchange with nobody, in which worker 0's ballot stands for all shards and workers."""

    def __init__(self, num_workers: int, num_shards: int) -> None:
        super().__init__(num_workers)
        self.num_shards = num_shards

    def collect(self, result: Tensor, format: RoundFormat) -> Arrival:
        return lambda: result.expand(self.num_shards, -1)


def prepare_kernels(
    options: Options,
    numel: int,
    num_rounds: int,
    num_shards: int,
    device: torch.device,
    network: Network,
    rank_info: RankInfo,
) -> Preparation:
    """Decides about --compile, and compiles what the run will call.

    One process of each machine compiles and fills the cache on the disk; then the others read it.

    Args:
        numel: parameters of the model that are voted on.
        num_rounds: steps of the whole run.
        num_shards: into how many shards a ballot is cut.
        device: where this process computes.

    Raises:
        RunError: on every process, if it fails on one, with --compile on.
    """
    work = OPTIMIZERS[options.optimizer].work(options.vote, device.type)
    if work is None:
        return Preparation("off", seconds=0.0)
    choice = choose(options.vote.compile, work, numel, options.num_workers, num_rounds)
    if choice == "off":
        return Preparation("off", seconds=0.0)
    began = time.perf_counter()
    is_asked = options.vote.compile != "auto"
    announce("compiling the kernels")
    while choice != "off":
        failure = _rehearse_everywhere(options, choice, numel, num_shards, network, rank_info)
        if failure is None:
            break
        if is_asked:
            raise RunError(failure)
        log.warning("%s: going on without it, slower and with the same results", failure)
        choice = "native" if choice == "on" else "off"
    return Preparation(choice, seconds=time.perf_counter() - began)


def _rehearse_everywhere(
    options: Options,
    choice: str,
    numel: int,
    num_shards: int,
    network: Network,
    rank_info: RankInfo,
) -> str | None:
    """Why it failed on some process, or None."""
    for is_turn in (rank_info.local_rank == 0, rank_info.local_rank != 0):
        failure = _rehearse(options, choice, numel, num_shards) if is_turn else None
        for told in gather_messages(network.bookkeeping, failure, Optional(TEXT)):
            if told:
                return str(told)
    return None


def _rehearse(options: Options, choice: str, numel: int, num_shards: int) -> str | None:
    """One round of a model that has nothing but as many elements as meet every kernel; why it
    failed, or None."""
    # The model is one vector: nothing of it is exempt. There is nobody to count again.
    vote = replace(options.vote, exempt_1d=False, min_compress_numel=0, verify_fraction=0.0)
    options = replace(options, vote=vote)
    shard = min(shard_numel(numel, num_shards), Inductor.chunk_numel + 1)
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(num_shards * shard))
    exchange = _Rehearsal(options.num_workers, num_shards)
    optimizer = build_optimizer(options, options.cells()[0], model, exchange, choice)
    model.weight.grad = torch.zeros_like(model.weight)
    try:
        optimizer.compress(0)
        optimizer.zero_grad()
        for slot in range(1, options.num_workers):
            optimizer.compress(slot)
        optimizer.step()
    except CompsgdError as error:
        return str(error)
    return None

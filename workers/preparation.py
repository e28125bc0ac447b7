"""Compiling before the first step: once for each machine, and alike on all processes."""

import logging
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compsgd.comm.messages import gather_messages
from compsgd.comm.place import Place
from compsgd.comm.process_group import Network
from compsgd.compiling import PIECE_NUMEL, pays
from compsgd.errors import CompsgdError
from compsgd.exchange import InProcessExchange
from compsgd.flat import shard_numel
from compsgd.workers.failures import RunError
from compsgd.workers.options import Options
from compsgd.workers.training import build_optimizer

log = logging.getLogger("compsgd")


@dataclass(frozen=True)
class Preparation:
    """Whether the kernels of a run are compiled, and what that took here."""

    is_compiled: bool
    seconds: float

    @property
    def choice(self) -> str:
        """For the optimizers' argument `compile`."""
        return "on" if self.is_compiled else "off"


class _Rehearsal(InProcessExchange):
    """An exchange with nobody, in which worker 0's ballot stands for all shards and workers."""

    def __init__(self, num_workers: int, num_shards: int) -> None:
        super().__init__(num_workers)
        self.num_shards = num_shards

    def collect(self, result: Tensor, logical_num_bytes: int) -> Tensor:
        return result.expand(self.num_shards, -1)


def prepare_kernels(
    options: Options, numel: int, num_rounds: int, num_shards: int, network: Network, place: Place
) -> Preparation:
    """Decides about --compile, and compiles what the run will call.

    One process of each machine compiles and fills the cache on the disk; then the others read it.

    Args:
        numel: parameters of the model.
        num_rounds: steps of the whole run.
        num_shards: into how many shards a ballot is cut.

    Raises:
        RunError: on every process, if it fails on one, with --compile on.
    """
    asked = options.compile == "on"
    worthwhile = options.compile == "auto" and pays(numel, options.num_workers, num_rounds)
    if options.optimizer == "sgd" or not (asked or worthwhile):
        return Preparation(is_compiled=False, seconds=0.0)
    began = time.perf_counter()
    failures = []
    for is_turn in (place.local_rank == 0, place.local_rank != 0):
        failure = _rehearse(options, numel, num_shards) if is_turn else None
        failures += [told for told in gather_messages(network.bookkeeping, failure) if told]
        if failures:
            break
    if not failures:
        return Preparation(is_compiled=True, seconds=time.perf_counter() - began)
    if asked:
        raise RunError(failures[0])
    log.warning("%s: going on without it, slower and with the same results", failures[0])
    return Preparation(is_compiled=False, seconds=time.perf_counter() - began)


def _rehearse(options: Options, numel: int, num_shards: int) -> str | None:
    """One round of a model that has nothing but as many elements as meet every kernel; why it
    failed, or None."""
    shard = min(shard_numel(numel, num_shards), PIECE_NUMEL + 1)
    stand_in = nn.Module()
    stand_in.weight = nn.Parameter(torch.zeros(num_shards * shard))
    exchange = _Rehearsal(options.num_workers, num_shards)
    optimizer = build_optimizer(options, options.cells()[0], stand_in, exchange, "on")
    stand_in.weight.grad = torch.zeros_like(stand_in.weight)
    try:
        optimizer.compress(0)
        optimizer.step()
    except CompsgdError as error:
        return str(error)
    return None

"""What an optimizer asks of those who carry its ballots.

The optimizers never import torch.distributed: an exchange is handed to them. The one here is for
workers that all live in this process; `compsgd.comm` has those that cross processes.

A ballot is cut into shards, and each process counts one of them. In an exchange that brings all
ballots to everybody there is only one shard: the whole.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from compsgd.checks import check_integer


class Exchange(Protocol):
    """All processes call the same methods in the same order, with equal sizes.

    Attributes:
        num_workers: N, the workers of all processes together.
        hosted: which of the workers 0..N-1 live in this process, in ascending order; as many on
            every process.
        num_shards: into how many shards a ballot is cut.
        shard: which of them this process counts.
        logical_num_shards: the shards, if each worker were a process of its own.
    """

    @property
    def num_workers(self) -> int: ...
    @property
    def hosted(self) -> Sequence[int]: ...
    @property
    def num_shards(self) -> int: ...
    @property
    def shard(self) -> int: ...
    @property
    def logical_num_shards(self) -> int: ...

    def all_gather(self, rows: Tensor) -> Tensor:
        """Brings everybody's rows to everybody.

        Args:
            rows: uint8, shape (len(hosted), num_bytes), a row for each hosted worker.

        Returns:
            uint8, shape (num_workers, num_bytes), row i from worker i.
        """

    def distribute(self, ballots: Tensor, logical_num_bytes: int) -> Tensor:
        """Brings every worker's ballot to those who count it.

        Args:
            ballots: uint8, shape (len(hosted), num_shards, num_bytes).
            logical_num_bytes: num_bytes with logical_num_shards, for the ledger.

        Returns:
            uint8, shape (num_workers, num_bytes): this process's shard of every ballot, by worker.
        """

    def collect(self, result: Tensor, logical_num_bytes: int) -> Tensor:
        """Brings everybody's result for their shard to everybody.

        Args:
            result: uint8, shape (num_bytes,).
            logical_num_bytes: num_bytes with logical_num_shards, for the ledger.

        Returns:
            uint8, shape (num_shards, num_bytes).
        """

    def counted_alone(self, logical_num_bytes: int) -> None:
        """Told instead of `collect` where there is only one shard, for the ledger: the result is
        here already."""

    def new_sum(self, numel: int, device: torch.device) -> Tensor:
        """A float32 sum of nothing: this process's shard of a vector of numel elements."""

    def add_to_sum(self, shard_sum: Tensor, slot: int, vector: Tensor) -> None:
        """Adds one vector from each process, in the order of the ranks, in place. Called once for
        each hosted worker in turn, this adds all workers in the order 0..N-1.

        Args:
            shard_sum: from new_sum.
            slot: which of the hosted workers' turn it is, from 0.
            vector: float32, shape (numel,), that worker's.
        """

    def collect_sum(self, shard_sum: Tensor, numel: int) -> Tensor:
        """The whole sum ((0 + v_0) + v_1) + ...; float32, shape (numel,), the same bits on every
        process: float addition is not associative, so the order is the contract."""

    def end_round(self, participants: Sequence[int]) -> None:
        """Told once a round, after its last collective, which workers took part."""


class InProcessExchange:
    """All N workers live in this process: nothing is sent."""

    num_shards = 1
    shard = 0
    logical_num_shards = 1

    def __init__(self, num_workers: int) -> None:
        self.num_workers = check_integer("num_workers", num_workers, 1)
        self.hosted: Sequence[int] = range(self.num_workers)

    def all_gather(self, rows: Tensor) -> Tensor:
        return rows

    def distribute(self, ballots: Tensor, logical_num_bytes: int) -> Tensor:
        return ballots[:, 0]

    def collect(self, result: Tensor, logical_num_bytes: int) -> Tensor:
        return result.unsqueeze(0)

    def counted_alone(self, logical_num_bytes: int) -> None:
        pass

    def new_sum(self, numel: int, device: torch.device) -> Tensor:
        return torch.zeros(numel, dtype=torch.float32, device=device)

    def add_to_sum(self, shard_sum: Tensor, slot: int, vector: Tensor) -> None:
        shard_sum += vector

    def collect_sum(self, shard_sum: Tensor, numel: int) -> Tensor:
        return shard_sum

    def end_round(self, participants: Sequence[int]) -> None:
        pass

"""Exchanges of ballots between processes (design, sections 3 and 6)."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from compsgd.comm.collectives import Collectives
from compsgd.errors import CompsgdError


class AllGatherExchange:
    """Every worker receives all ballots. Worker i lives on process i mod W."""

    def __init__(self, collectives: Collectives) -> None:
        """
        Raises:
            CompsgdError: num_workers is no multiple of the number of processes.
        """
        self._collectives = collectives
        self.num_workers = collectives.num_workers
        world_size = collectives.world_size
        if self.num_workers % world_size:
            raise CompsgdError(
                f"num_workers is {self.num_workers}; it must be a multiple of the "
                f"{world_size} processes"
            )
        self.hosted: Sequence[int] = range(collectives.rank, self.num_workers, world_size)

    def all_gather(self, rows: Tensor) -> Tensor:
        """One all-gather of everybody's rows; rows of (rank, slot) become rows by worker.

        Sends (N-1) rows a worker.
        """
        others = self.num_workers - 1
        gathered = self._collectives.all_gather(rows, logical_bytes=others * rows[0].nbytes)
        return gathered.transpose(0, 1).reshape(self.num_workers, -1)

    def all_reduce_sum(self, vectors: Sequence[Tensor]) -> Tensor:
        """A sum in worker order, with the bytes of a ring all-reduce.

        1. All-to-all, once for each slot of hosted workers: rank r receives everybody's shard r.
        2. Every rank adds up its shard in worker order.
        3. All-gather of the sums.

        Sends 2 * (N-1) shards of ceil(numel / N) floats a worker.
        """
        numel = vectors[0].numel()
        world_size = self._collectives.world_size
        shard_numel = -(-numel // world_size)
        shard_sum = vectors[0].new_zeros(shard_numel)
        # Once for all slots: each of N separate workers would take part in one all-to-all.
        logical_bytes = (self.num_workers - 1) * -(-numel // self.num_workers) * 4
        for slot, vector in enumerate(vectors):
            shards = _padded(vector, world_size * shard_numel).view(world_size, shard_numel)
            for shard in self._collectives.all_to_all(shards, 0 if slot else logical_bytes):
                shard_sum += shard
        return self._collectives.all_gather(shard_sum, logical_bytes).flatten()[:numel]

    def end_round(self, participants: Sequence[int]) -> None:
        self._collectives.ledger.end_round(participants)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AllGatherExchange":
        """A copied optimizer talks to the same processes."""
        return self

    def __reduce__(self) -> NoReturn:
        raise CompsgdError(
            "an exchange belongs to its running processes and cannot be pickled; save the "
            "optimizer's state_dict() instead"
        )


def _padded(vector: Tensor, numel: int) -> Tensor:
    if vector.numel() == numel:
        return vector
    return torch.cat([vector, vector.new_zeros(numel - vector.numel())])

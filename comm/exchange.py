"""Exchanges of ballots between processes (design, sections 3 and 6).

Worker i lives on process i mod W. The results do not depend on the exchange, nor on W, by a bit.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from compsgd.comm.collectives import Collectives
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange
from compsgd.flat import shard_numel

EXCHANGES = ("auto", "all_gather", "scatter_reduce")


class _ProcessExchange:
    """What both exchanges share: who is hosted, small rows, and the float32 sum."""

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
        """One all-gather. Sends (N-1) rows a worker."""
        logical_bytes = (self.num_workers - 1) * rows[0].nbytes
        return self._by_worker(self._collectives.all_gather(rows, logical_bytes))

    def new_sum(self, numel: int, device: torch.device) -> Tensor:
        return torch.zeros(shard_numel(numel, self._collectives.world_size), device=device)

    def add_to_sum(self, shard_sum: Tensor, slot: int, vector: Tensor) -> None:
        """1. All-to-all: rank r receives everybody's shard r. 2. It adds them in rank order.

        Sends (N-1) shards of ceil(numel / N) floats a worker.
        """
        world_size = self._collectives.world_size
        shards = _padded(vector, world_size * shard_sum.numel()).view(world_size, -1)
        # A separate worker would take part in one all-to-all: the one for slot 0.
        logical_bytes = self._logical_shards_bytes(vector.numel()) if slot == 0 else 0
        for shard in self._collectives.all_to_all(shards, logical_bytes):
            shard_sum += shard

    def collect_sum(self, shard_sum: Tensor, numel: int) -> Tensor:
        """All-gather of the shards: with add_to_sum, the bytes of a ring all-reduce."""
        logical_bytes = self._logical_shards_bytes(numel)
        return self._collectives.all_gather(shard_sum, logical_bytes).flatten()[:numel]

    def _logical_shards_bytes(self, numel: int) -> int:
        return (self.num_workers - 1) * shard_numel(numel, self.num_workers) * 4

    def end_round(self, participants: Sequence[int]) -> None:
        self._collectives.ledger.end_round(participants)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_ProcessExchange":
        """A copied optimizer talks to the same processes."""
        return self

    def __reduce__(self) -> NoReturn:
        raise CompsgdError(
            "an exchange belongs to its running processes and cannot be pickled; save the "
            "optimizer's state_dict() instead"
        )

    def _by_worker(self, gathered: Tensor) -> Tensor:
        """(world_size, hosted, num_bytes), a worker's place, to (num_workers, num_bytes)."""
        return gathered.transpose(0, 1).reshape(self.num_workers, -1)


class AllGatherExchange(_ProcessExchange):
    """Every process receives all ballots whole and counts all elements.

    Sends (N-1) * P a worker, P the packed size of a ballot.
    """

    num_shards = 1
    shard = 0
    logical_num_shards = 1

    def distribute(self, ballots: Tensor, logical_num_bytes: int) -> Tensor:
        """One all-gather."""
        return self.all_gather(ballots[:, 0])

    def collect(self, result: Tensor, logical_num_bytes: int) -> Tensor:
        """Nothing to do: everybody has counted everything."""
        return result.unsqueeze(0)

    def counted_alone(self, logical_num_bytes: int) -> None:
        """Nor would a separate worker send anything."""


class ScatterReduceExchange(_ProcessExchange):
    """Every process counts one shard of all ballots, and sends the result to all.

    Sends 2 * (N-1)/N * P a worker, P the packed size of a ballot: constant in N. The second phase
    loses nothing, since a vote lies in the alphabet of the ballots.
    """

    def __init__(self, collectives: Collectives) -> None:
        super().__init__(collectives)
        self.num_shards = collectives.world_size
        self.shard = collectives.rank
        self.logical_num_shards = self.num_workers

    def distribute(self, ballots: Tensor, logical_num_bytes: int) -> Tensor:
        """One all-to-all: rank r receives shard r of every ballot."""
        logical_bytes = (self.num_workers - 1) * logical_num_bytes
        by_shard = ballots.transpose(0, 1).contiguous()
        return self._by_worker(self._collectives.all_to_all(by_shard, logical_bytes))

    def collect(self, result: Tensor, logical_num_bytes: int) -> Tensor:
        """One all-gather of the shards' results."""
        logical_bytes = (self.num_workers - 1) * logical_num_bytes
        return self._collectives.all_gather(result, logical_bytes)

    def counted_alone(self, logical_num_bytes: int) -> None:
        """A process alone sends nothing, but separate workers would."""
        self._collectives.record_logical("all_gather", (self.num_workers - 1) * logical_num_bytes)


def build_exchange(name: str, collectives: Collectives) -> Exchange:
    """The exchange of that name; "auto" takes the one with which so many workers send less
    to vote: all_gather up to N = 2, where both send one ballot, and scatter_reduce above. (The sums
    of compressed_sgd take more bits than a vote: at 1 bit they tip the scales for N = 3 and 4.)"""
    if name == "auto":
        name = "all_gather" if collectives.num_workers <= 2 else "scatter_reduce"
    if name == "all_gather":
        return AllGatherExchange(collectives)
    return ScatterReduceExchange(collectives)


def _padded(vector: Tensor, numel: int) -> Tensor:
    if vector.numel() == numel:
        return vector
    return torch.cat([vector, vector.new_zeros(numel - vector.numel())])

"""The sum of all workers' float32 vectors in worker order, the same bits on every process: float
addition is not associative, so the order is the contract (design, section 3)."""

import torch
from torch import Tensor

from compsgd.codec.wire import RoundFormat, WireFormat
from compsgd.layout import shard_numel
from compsgd.voting.exchange import Exchange


class FloatSum:
    """Grows by one vector of each process at a time: the bytes of a ring all-reduce, and the
    memory of one gradient, however many workers a process hosts.

    1. All-to-all: each process receives everybody's vectors of its shard. 2. It adds them in the
    order of the processes; called for each hosted worker in turn, that is 0..N-1. 3. All-gather of
    the sums.

    Attributes:
        shard: this process's part of the sum so far, float32.
        num_added: how many hosted workers' vectors it holds.
    """

    def __init__(self, numel: int, exchange: Exchange, device: torch.device) -> None:
        self._numel = numel
        self._exchange = exchange.by_shards()
        self._format = RoundFormat(*[WireFormat(numel, None)] * 2)
        size = shard_numel(numel, self._exchange.num_shards)
        self.shard = torch.zeros(size, dtype=torch.float32, device=device)
        self.num_added = 0

    def add(self, vector: Tensor) -> None:
        """Args: vector: float32, shape (numel,), of the next hosted worker."""
        num_shards = self._exchange.num_shards
        size = self.shard.numel()
        shards = _padded(vector, num_shards * size).view(1, num_shards, size)
        # A separate worker would take part in one all-to-all: the first.
        format = None if self.num_added else self._format
        for row in self._exchange.distribute(shards.view(torch.uint8), format)():
            self.shard += row.view(torch.float32)
        self.num_added += 1

    def total(self) -> Tensor:
        """The whole sum ((0 + v_0) + v_1) + ...; float32, shape (numel,)."""
        if self._exchange.num_shards == 1:
            return self.shard
        collected = self._exchange.collect(self.shard.view(torch.uint8), self._format)()
        return collected.view(torch.float32).flatten()[: self._numel]


def _padded(vector: Tensor, numel: int) -> Tensor:
    if vector.numel() == numel:
        return vector
    return torch.cat([vector, vector.new_zeros(numel - vector.numel())])

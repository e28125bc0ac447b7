"""How well the vote does, every so many rounds (`--diagnose`): whether the workers agree, and how
far the vote points from the true mean gradient.

Both are exact, and the same for any number of processes by a bit. What that takes to send is
bookkeeping, no gradient traffic.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from compsgd.alphabet import ballot_alphabet
from compsgd.comm import ScatterReduceExchange
from compsgd.comm.collectives import Collectives
from compsgd.flat import shard_run
from compsgd.level_optimizer import LevelOptimizer
from compsgd.majority import cosine, majority_counts, mean_where_voted
from compsgd.witness import RoundWitness


class Finding(NamedTuple):
    """What a diagnosis has found.

    Attributes:
        cosine: between the update and the mean of the gradients of the workers that took part, as
            they were before any attack; NaN if one of them is 0.
        agreement: the share of elements on which the majority has 1, 2, ..., N ballots of one sign.
    """

    cosine: float
    agreement: list[float]

    @property
    def mean_majority(self) -> float:
        """The mean size of a majority, in ballots."""
        return sum(size * share for size, share in enumerate(self.agreement, start=1))


class Diagnosis:
    """Of one round; all processes take it together. It changes nothing."""

    def __init__(self, optimizer: LevelOptimizer, gradient: Tensor, peers: Collectives) -> None:
        """Before the round.

        Args:
            gradient: where every gradient of a worker stands in turn, flat float32.
            peers: carry what is not on every process.
        """
        self._optimizer = optimizer
        self._gradient = gradient
        self._peers = peers
        self._by_worker: dict[int, Tensor] = {}
        self._witness = RoundWitness(gradient.numel(), gradient.device)
        optimizer.witness = self._witness

    def note_gradient(self, worker: int) -> None:
        """A hosted worker's gradient stands in its place. Kept until it is known who takes part."""
        self._by_worker[worker] = self._gradient.clone()

    def finding(self) -> Finding | None:
        """After the round; None if nobody took part in it."""
        self._optimizer.witness = None
        if not self._witness.electorates:
            return None
        true_mean = mean_where_voted(self._witness.electorates, self._sum_of_gradients())
        counts = self._majority_counts()
        return Finding(cosine(self._witness.update, true_mean), (counts / counts.sum()).tolist())

    def _sum_of_gradients(self) -> Tensor:
        """Over all workers that took part, in worker order, as `sgd` adds them."""
        exchange = ScatterReduceExchange(self._peers)
        shard_sum = exchange.new_sum(self._gradient.numel(), self._gradient.device)
        nothing = torch.zeros_like(self._gradient)
        for slot, worker in enumerate(exchange.hosted):
            took_part = worker in self._optimizer.participants
            vector = self._by_worker.pop(worker, nothing) if took_part else nothing
            exchange.add_to_sum(shard_sum, slot, vector)
        return exchange.collect_sum(shard_sum, self._gradient.numel())

    def _majority_counts(self) -> Tensor:
        """Over all elements; float64, shape (num_workers,)."""
        optimizer, exchange = self._optimizer, self._optimizer.exchange
        counts = majority_counts(
            self._witness.electorates,
            self._witness.payloads,
            ballot_alphabet(optimizer.num_bits, optimizer.zeros),
            shard_run(self._gradient.numel(), exchange.num_shards, exchange.shard),
        )
        if exchange.num_shards > 1:
            counts = self._peers.all_gather(counts).sum(dim=0)
        return counts.double()

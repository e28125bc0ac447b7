"""How well the vote does, every so many rounds (`--diagnose`): whether the workers agree, and how
far the vote points from the true mean gradient.

Both are exact, and bit-identical for any number of processes. What that takes to send is
bookkeeping, no gradient traffic.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from compsgd.comm import ScatterReduceExchange
from compsgd.comm.group.collectives import Collectives
from compsgd.optim.round_optimizer import RoundOptimizer
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.float_sum import FloatSum
from compsgd.voting.majority import cosine, majority_counts, mean_where_voted
from compsgd.voting.outcome import Outcome
from compsgd.voting.tally import payload


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

    def __init__(self, optimizer: RoundOptimizer, gradient: Tensor, peers: Collectives) -> None:
        """Before the round.

        Args:
            optimizer: of levels.
            gradient: where every gradient of a worker stands in turn, flat float32.
            peers: carry what is not on every process.
        """
        self._optimizer = optimizer
        self._gradient = gradient
        self._peers = peers
        self._by_worker: dict[int, Tensor] = {}
        self._outcome: Outcome | None = None
        optimizer.probe = self._keep

    def note_gradient(self, worker: int) -> None:
        """A hosted worker's gradient is there. Kept until it is known who takes part."""
        self._by_worker[worker] = self._gradient.clone()

    def finding(self) -> Finding | None:
        """After the round; None if nobody took part in it."""
        self._optimizer.probe = None
        outcome, aggregator = self._outcome, self._optimizer.aggregator
        assert isinstance(aggregator, LevelAggregator), "the options are checked"
        if outcome is None or not outcome.voters:
            return None
        true_mean = mean_where_voted(outcome.voters, self._sum_of_gradients())
        update = torch.zeros_like(self._gradient)
        for span, values in aggregator.updates(outcome):
            update[span.slice] = values
        counts = self._majority_counts(aggregator, outcome)
        return Finding(cosine(update, true_mean), (counts / counts.sum()).tolist())

    def _keep(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def _sum_of_gradients(self) -> Tensor:
        """Over all workers that took part, in worker order, as `sgd` adds them."""
        exchange = ScatterReduceExchange(self._peers)
        total = FloatSum(self._gradient.numel(), exchange, self._gradient.device)
        nothing = torch.zeros_like(self._gradient)
        for worker in exchange.hosted:
            took_part = worker in self._optimizer.participants
            total.add(self._by_worker.pop(worker, nothing) if took_part else nothing)
        return total.total()

    def _majority_counts(self, aggregator: LevelAggregator, outcome: Outcome) -> Tensor:
        """Over all elements; float64, shape (num_workers,)."""
        exchange = aggregator.exchange
        counts = torch.zeros(exchange.num_workers, dtype=torch.int64)
        for chunk, received in zip(aggregator.chunks, outcome.received, strict=True):
            shard = chunk.shards[exchange.shard].shifted(chunk.span.start)
            ballots = payload(received, chunk)
            counts += majority_counts(outcome.voters, ballots, aggregator.alphabet, shard).cpu()
        if exchange.num_shards > 1:
            counts = self._peers.all_gather(counts).sum(dim=0)
        return counts.double()

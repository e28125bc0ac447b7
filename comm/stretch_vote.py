"""One vote on parameters that are neighbours: gradients to ballots, and the result to gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compsgd.comm.parameters import ParamGradient
from compsgd.gradient import Gradient, GradientPart
from compsgd.layout import Workspace
from compsgd.voting.aggregator import LevelAggregator, Underway
from compsgd.voting.outcome import Outcome


class StretchVote:
    """All processes call `send`, `count` and `write`, in this order.

    Attributes:
        values: the gradients, contiguous; overwritten.
        round: counts votes from 0.
    """

    def __init__(
        self,
        gradients: Sequence[ParamGradient],
        aggregator: LevelAggregator,
        factor: float | None,
        round_: int,
    ) -> None:
        """
        Args:
            gradients: of the neighbours, in their order.
            aggregator: for them.
            factor: what a level becomes; None for what makes each parameter's mean magnitude that
                of the workers.
            round_: counts votes from 0.
        """
        self.values = [one.values.contiguous() for one in gradients]
        self.round = round_
        self._gradients = gradients
        self._aggregator = aggregator
        self._factor = factor
        self._underway: Underway | None = None
        self._outcome: Outcome | None = None

    def send(self, device: torch.device, workspace: Workspace) -> None:
        """
        Args:
            device: where the gradients are.
            workspace: memory, free again behind it.
        """
        layout = self._aggregator.layout
        present = [one.is_present for one in self._gradients]
        parts = [
            GradientPart(span, values.to(torch.float32).view(-1))
            for span, values, is_present in zip(layout.spans, self.values, present, strict=True)
            if is_present
        ]
        gradient = Gradient(parts, present, layout, device, workspace)
        self._underway = self._aggregator.send(self.round, gradient)

    def count(self) -> None:
        assert self._underway is not None, "send comes first"
        self._outcome = self._aggregator.count(self._underway)

    @property
    def outcome(self) -> Outcome:
        """Behind `count`."""
        assert self._outcome is not None, "count comes first"
        return self._outcome

    @property
    def met_non_finite(self) -> bool:
        """Whether nobody votes because gradients are not finite."""
        outcome = self.outcome
        non_finite = [header.non_finite is not None for header in outcome.headers]
        return outcome.result is None and any(non_finite)

    def write(self) -> None:
        """The result, scaled, by parameter as it comes; 0 where nobody votes. It lies in the
        alphabet of the ballots, and so their codec reads it."""
        outcome, aggregator = self.outcome, self._aggregator
        if outcome.result is None:
            for values in self.values:
                values.zero_()
            return
        present = zip(*(header.present for header in outcome.headers), strict=True)
        has_voters = list(map(any, present))
        for number, _ in enumerate(outcome.arrivals()):
            ending = aggregator.chunks[number].ending
            codes = [outcome.result[aggregator.layout.spans[index].slice] for index in ending]
            for index, its_codes, scale in zip(
                ending, codes, self._scales(number, codes), strict=True
            ):
                values = self.values[index].view(-1)
                if has_voters[index]:
                    aggregator.codec.decode(values, its_codes, scale)
                else:
                    values.zero_()

    def _scales(self, number: int, codes: Sequence[Tensor]) -> list[float]:
        """Of each parameter that ends in a chunk, what a level of its vote becomes."""
        if self._factor is not None:
            return [self._factor] * len(codes)
        totals = self._aggregator.codec.level_magnitudes(codes)
        means = self._aggregator.median_magnitudes(self.outcome, number).tolist()
        return [
            mean * its_codes.numel() / total if total else 0.0
            for mean, its_codes, total in zip(means, codes, totals, strict=True)
        ]

    def hand_back(self) -> None:
        """What was not contiguous is copied to where it belongs."""
        for one, values in zip(self._gradients, self.values, strict=True):
            if values is not one.values:
                one.values.copy_(values)

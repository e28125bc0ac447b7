"""One process's side of the votes on a model's gradients, whoever computes them.

What is voted on becomes scaled levels, what is exempt a mean in float32; a process whose gradients
are not finite sits out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.combine import VOTE
from compsgd.codec.compiling import Work
from compsgd.comm.exchanges import build_exchange
from compsgd.comm.group.averaging import average, start_average_of_finite
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.parameters import Place, VotedParams
from compsgd.gradient import Gradient, GradientPart
from compsgd.layout import FlatLayout, Span, Workspace
from compsgd.settings import VoteSettings
from compsgd.voting.aggregator import LevelAggregator, Outcome
from compsgd.voting.encoder import WorkerEncoder
from compsgd.voting.replicas import digest, digest_of_text, facts_of, is_due

EXEMPT_MOMENTUM = "exempt_momentum"


@dataclass(frozen=True)
class ParamGradient:
    """A parameter's gradient on this process.

    Attributes:
        values: what is overwritten.
        place: where the parameter stands.
        is_present: whether it has got a gradient here; otherwise `values` is 0.
    """

    values: Tensor
    place: Place
    is_present: bool


class GroupVote:
    """Overwrites gradients by what all processes of a group make of them."""

    def __init__(
        self, settings: VoteSettings, params: VotedParams, collectives: Collectives
    ) -> None:
        """
        Args:
            settings: how to vote.
            params: the model's.
            collectives: of a group that nobody else uses at the same time.
        """
        self._settings = settings
        self._factor = settings.factor
        self._params = params
        self._collectives = collectives
        self._exchange = build_exchange(settings.exchange, collectives)
        self._encoder = WorkerEncoder.fresh(params.layout.numel, params.device, settings)
        self._exempt_momentum = _exempt_momentum(settings, params)
        alphabet = ballot_alphabet(settings.num_bits, not settings.rand_zero)
        self._work = Work(alphabet, settings.binning, VOTE, params.device.type)
        self._workspace = Workspace()
        self._aggregators: dict[Span, LevelAggregator] = {}
        self._used: set[Span] = set()
        self._facts: dict[str, str] = {}

    @property
    def world_size(self) -> int:
        return self._collectives.world_size

    def memory(self) -> dict[str, Tensor]:
        """A copy of what this process remembers, on the CPU; flat float32 vectors by name."""
        return {name: values.cpu().clone() for name, values in self._remembered.items()}

    def load_memory(self, memory: dict[str, Tensor] | None) -> None:
        """Takes over what `memory` returned, for the same parameters; None for one that has seen
        nothing."""
        found = memory or _fresh_memory(self._settings, self._params)
        for name, values in self._remembered.items():
            values.copy_(found[name])

    @property
    def _remembered(self) -> dict[str, Tensor]:
        if self._exempt_momentum is None:
            return self._encoder.state
        return {**self._encoder.state, EXEMPT_MOMENTUM: self._exempt_momentum}

    def is_present_anywhere(self, gradients: Sequence[ParamGradient]) -> list[bool]:
        """Of each, whether some process has it. A byte a tensor to every other process."""
        here = torch.tensor([one.is_present for one in gradients], dtype=torch.uint8)
        found: list[bool] = self._collectives.all_gather(here).bool().any(dim=0).tolist()
        return found

    @torch.no_grad()
    def take(self, gradients: Sequence[ParamGradient], round_: int) -> None:
        """Some of a step's gradients; all processes hand over the same parameters in the same
        order.

        1. Exempt ones become their running means, and the mean of all processes' is started.
        2. Neighbours are voted on together. 3. The mean is waited for.

        Args:
            gradients: overwritten. Where nobody has a gradient, by 0.
            round_: counts votes from 0; negative before the first, where all are averaged.
        """
        if round_ < 0:
            average([gradient.values for gradient in gradients], self._collectives)
            return
        exempt = [gradient for gradient in gradients if not gradient.place.is_voted]
        self._smooth(exempt)
        averaged = [gradient.values for gradient in exempt]
        finish_average = start_average_of_finite(averaged, self._collectives)
        for neighbours in _neighbours(gradients):
            self._vote_on(neighbours, round_)
        finish_average()
        if averaged and self._is_due(round_):
            self._note("the averaged gradients", digest(averaged))

    def end_step(self, round_: int) -> None:
        """All gradients of a step have been taken.

        Raises:
            PeerError: on every process alike, where they have not seen or made the same.
        """
        if self._is_due(round_):
            weights = {f"the weights before vote {round_}": digest(self._params.all)}
            self._exchange.compare(self._facts | weights)
            self._facts = {}
        self._exchange.end_round(range(self.world_size))
        # Buckets are rebuilt after the first iteration; what was for the old ones can go.
        self._aggregators = {
            span: one for span, one in self._aggregators.items() if span in self._used
        }
        self._used = set()

    def _is_due(self, round_: int) -> bool:
        """Whether the processes compare what they make of this step."""
        return self.world_size > 1 and is_due(round_, self._settings.check_every)

    def _note(self, name: str, found: str) -> None:
        """What is to be compared at the end of the step; the parts of one name together."""
        self._facts[name] = digest_of_text(self._facts.get(name, "") + found)

    def _smooth(self, exempt: Sequence[ParamGradient]) -> None:
        """The running mean that levels are made of takes the place of exempt gradients, too. What
        is not finite stays, and leaves it as it was."""
        if self._exempt_momentum is None or not _are_finite([one.values for one in exempt]):
            return
        beta = self._settings.momentum
        for gradient in exempt:
            if gradient.is_present:
                span = self._params.exempt_layout.spans[gradient.place.number]
                mean = self._exempt_momentum[span.slice].view(gradient.values.shape)
                mean.copy_(mean * beta + gradient.values.float() * (1.0 - beta))
                gradient.values.copy_(mean)

    def _vote_on(self, neighbours: Sequence[ParamGradient], round_: int) -> None:
        """One vote, on parameters that are neighbours."""
        values = [one.values.contiguous() for one in neighbours]
        aggregator = self._aggregator(neighbours)
        present = [one.is_present for one in neighbours]
        parts = [
            GradientPart(span, its_values.to(torch.float32).view(-1))
            for span, its_values, is_present in zip(
                aggregator.layout.spans, values, present, strict=True
            )
            if is_present
        ]
        gradient = Gradient(parts, present, aggregator.layout, self._params.device, self._workspace)
        aggregator.compress(0, gradient, round_)
        outcome = aggregator.aggregate(round_)
        if self._is_due(round_):
            for name, found in facts_of(outcome, self._exchange, round_).items():
                self._note(name, found)
        if outcome.result is not None:
            self._write(aggregator, outcome, outcome.result, values)
        elif any(header.non_finite is not None for header in outcome.headers):
            # So that a GradScaler sees it.
            average(values, self._collectives)
        else:
            for its_values in values:
                its_values.zero_()
        for one, its_values in zip(neighbours, values, strict=True):
            if its_values is not one.values:
                one.values.copy_(its_values)

    def _write(
        self,
        aggregator: LevelAggregator,
        outcome: Outcome,
        result: Tensor,
        values: Sequence[Tensor],
    ) -> None:
        """The vote, scaled, by parameter; 0 where nobody votes. A vote lies in the alphabet of the
        ballots, and so their codec reads it."""
        codes = [result[span.slice] for span in aggregator.layout.spans]
        has_voters = [any(column) for column in zip(*(h.present for h in outcome.headers),
                                                    strict=True)]  # fmt: skip
        scales = self._scales(aggregator, outcome, codes)
        for its_values, its_codes, scale, is_voted in zip(
            values, codes, scales, has_voters, strict=True
        ):
            if is_voted:
                aggregator.codec.decode(its_values.view(-1), its_codes, scale)
            else:
                its_values.zero_()

    def _scales(
        self, aggregator: LevelAggregator, outcome: Outcome, codes: Sequence[Tensor]
    ) -> list[float]:
        """By parameter, what a level of its vote becomes."""
        if self._factor is not None:
            return [self._factor] * len(codes)
        totals = aggregator.codec.level_magnitudes(codes)
        means = aggregator.median_magnitudes(outcome).tolist()
        return [
            mean * its_codes.numel() / total if total else 0.0
            for mean, its_codes, total in zip(means, codes, totals, strict=True)
        ]

    def _aggregator(self, neighbours: Sequence[ParamGradient]) -> LevelAggregator:
        """The one for these parameters."""
        first, last = neighbours[0].place.number, neighbours[-1].place.number
        spans = self._params.layout.spans
        span = Span(spans[first].start, spans[last].end)
        self._used.add(span)
        if span not in self._aggregators:
            self._aggregators[span] = LevelAggregator(
                FlatLayout([one.values.numel() for one in neighbours]),
                [self._encoder.part(span)],
                self._work,
                self._exchange,
                self._settings,
                self._params.device,
                first=span.start,
                carries_magnitudes=self._factor is None,
                workspace=self._workspace,
            )
        return self._aggregators[span]


def memory_sizes(settings: VoteSettings, params: VotedParams) -> dict[str, int]:
    """What a process remembers: elements by name."""
    sizes = dict.fromkeys(WorkerEncoder.state_names(settings), params.layout.numel)
    if settings.momentum and params.exempt_layout.numel:
        sizes[EXEMPT_MOMENTUM] = params.exempt_layout.numel
    return sizes


def _fresh_memory(settings: VoteSettings, params: VotedParams) -> dict[str, Tensor]:
    device = torch.device("cpu")
    memory = WorkerEncoder.fresh(params.layout.numel, device, settings).state
    numel = memory_sizes(settings, params).get(EXEMPT_MOMENTUM, 0)
    return {**memory, EXEMPT_MOMENTUM: torch.zeros(numel)}


def _exempt_momentum(settings: VoteSettings, params: VotedParams) -> Tensor | None:
    numel = memory_sizes(settings, params).get(EXEMPT_MOMENTUM)
    return None if numel is None else torch.zeros(numel, device=params.device)


def _are_finite(tensors: Sequence[Tensor]) -> bool:
    return all(bool(one.isfinite().all()) for one in tensors)


def _neighbours(gradients: Sequence[ParamGradient]) -> list[list[ParamGradient]]:
    """Those that are voted on in model order, cut where they are no neighbours there."""
    by_number = {one.place.number: one for one in gradients if one.place.is_voted}
    found: list[list[ParamGradient]] = []
    for index in sorted(by_number):
        if index - 1 not in by_number:
            found.append([])
        found[-1].append(by_number[index])
    return found

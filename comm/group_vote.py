"""One process's side of the votes on a model's gradients, whoever computes them.

What is voted on becomes scaled levels, what is exempt a mean in float32; a process whose gradients
are not finite sits out.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.combine import VOTE
from compsgd.codec.compiling import Work
from compsgd.comm.exchange_choice import build_exchange
from compsgd.comm.group.averaging import are_finite, average, start_average_of_finite
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.parameters import ParamGradient, Place, VotedParams
from compsgd.comm.stretch_vote import StretchVote
from compsgd.layout import FlatLayout, Span, Workspace
from compsgd.settings import VoteSettings
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.encoder import WorkerEncoder
from compsgd.voting.replicas import digest, digest_of_text, facts_of, is_due

EXEMPT_MOMENTUM = "exempt_momentum"


class Taken(NamedTuple):
    """Gradients underway.

    Attributes:
        votes: on those that are voted on, by stretch.
        finish_average: waits for the mean of the others.
    """

    votes: Sequence[StretchVote]
    finish_average: Callable[[], None]


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
        self._exchange = build_exchange(
            settings.exchange, collectives, entropy_coding=settings.entropy_coding
        )
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

        Args:
            gradients: overwritten. Where nobody has a gradient, by 0.
            round_: counts votes from 0; negative before the first, where all are averaged.
        """
        taken = self.send(gradients, round_)
        self.count(taken)
        self.finish(taken)

    @torch.no_grad()
    def send(self, gradients: Sequence[ParamGradient], round_: int) -> Taken:
        """The same in three parts, so that several can be underway, one part behind the other.

        1. Exempt ones become their running means, and the mean of all processes' is started.
        2. Neighbours are voted on together: their ballots are sent.
        """
        if round_ < 0:
            average([gradient.values for gradient in gradients], self._collectives)
            return Taken([], lambda: None)
        exempt = [gradient for gradient in gradients if not gradient.place.is_voted]
        self._smooth(exempt)
        averaged = [gradient.values for gradient in exempt]
        finish_average = start_average_of_finite(averaged, self._collectives)
        votes = [self._send(neighbours, round_) for neighbours in _neighbours(gradients)]

        def finish() -> None:
            finish_average()
            if averaged and self._is_due(round_):
                self._note("the averaged gradients", digest(averaged))

        return Taken(votes, finish)

    @torch.no_grad()
    def send_to_average(self, buffer: Tensor, gradients: Sequence[ParamGradient]) -> Taken:
        """Instead of a vote: the gradients, or their running means where the vote has momentum,
        become the mean of all processes'.

        Args:
            buffer: what they are views of.
        """
        self._smooth(gradients)
        wait = self._collectives.start_all_reduce(buffer)

        def finish() -> None:
            wait()
            buffer.div_(self.world_size)

        return Taken([], finish)

    @torch.no_grad()
    def count(self, taken: Taken) -> None:
        """Counts what was sent."""
        for vote in taken.votes:
            vote.count()

    @torch.no_grad()
    def finish(self, taken: Taken) -> None:
        """Overwrites gradients by what was counted, as it comes."""
        for vote in taken.votes:
            if self._is_due(vote.round):
                for name, found in facts_of(vote.outcome, self._exchange, vote.round).items():
                    self._note(name, found)
            if vote.met_non_finite:
                # So that a GradScaler sees it.
                average(vote.values, self._collectives)
            else:
                vote.write()
            vote.hand_back()
        taken.finish_average()

    def share(self, mine: Tensor) -> Tensor:
        """Brings a few bytes, uint8, to every process; by rank."""
        return self._exchange.share(mine)

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

    def _smooth(self, gradients: Sequence[ParamGradient]) -> None:
        """The running mean that levels are made of takes the place of gradients that are averaged,
        too. What is not finite stays, and leaves it as it was."""
        beta = self._settings.momentum
        # A shard may have no element of a parameter.
        here = [one for one in gradients if one.is_present and one.values.numel()]
        values = [one.values for one in here]
        if not beta or not values or not are_finite(values):
            return
        means = [self._running_mean(one.place).view(one.values.shape) for one in here]
        # All at once: what is exempt are usually many parameters of a few elements.
        torch._foreach_mul_(means, beta)
        news = torch._foreach_mul([one.float() for one in values], 1.0 - beta)
        torch._foreach_add_(means, news)
        torch._foreach_copy_(values, means)

    def _running_mean(self, place: Place) -> Tensor:
        """Of a parameter, flat."""
        if place.is_voted:
            return self._encoder.state["momentum"][self._params.layout.spans[place.number].slice]
        assert self._exempt_momentum is not None, "there is an exempt parameter"
        return self._exempt_momentum[self._params.exempt_layout.spans[place.number].slice]

    def _send(self, neighbours: Sequence[ParamGradient], round_: int) -> StretchVote:
        """One vote, on parameters that are neighbours."""
        vote = StretchVote(neighbours, self._aggregator(neighbours), self._factor, round_)
        vote.send(self._params.device, self._workspace)
        return vote

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


def _neighbours(gradients: Sequence[ParamGradient]) -> list[list[ParamGradient]]:
    """Those that are voted on in model order, cut where they are no neighbours there."""
    by_number = {one.place.number: one for one in gradients if one.place.is_voted}
    found: list[list[ParamGradient]] = []
    for index in sorted(by_number):
        if index - 1 not in by_number:
            found.append([])
        found[-1].append(by_number[index])
    return found

"""The vote on a part of a model, as the whole model would have voted on it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compsgd.exchange import Exchange
from compsgd.optimizers import CompressedSGDVote


class BucketVote(CompressedSGDVote):
    """Votes on neighbouring parameters, and hands the vote back instead of applying it.

    The range is the caller's, who may join parameters otherwise in another round; the random bits
    are those that the same elements have in a vote on all parameters.
    """

    def __init__(
        self,
        shapes: Sequence[torch.Size],
        first: int,
        device: torch.device,
        exchange: Exchange,
        **settings: Any,
    ) -> None:
        """
        Args:
            shapes: of the parameters, in model order.
            first: where they begin in the flat vector of all parameters.
            device: where they are.
            exchange: carries the ballots.
            settings: num_bits, binning, decay_min, decay_max, rand_zero, seed and compile, as for
                CompressedSGDVote.
        """
        sizes = [shape.numel() for shape in shapes]
        self.vote = torch.zeros(sum(sizes), device=device)
        parts = self.vote.split(sizes)
        self._stand_ins = [torch.nn.Parameter(part, requires_grad=False) for part in parts]
        self._gradient = torch.zeros(sum(sizes), device=device)
        self._gradients = self._gradient.split(sizes)
        super().__init__(self._stand_ins, 1.0, exchange=exchange, **settings)
        self._first = first

    @torch.no_grad()
    def cast(
        self, gradients: Sequence[Tensor | None], maximum: Tensor, minimum: Tensor, round_: int
    ) -> tuple[int, ...]:
        """One round; its result is in `vote`, float32, by parameter as in `votes`.

        Args:
            gradients: float32, by parameter; None where there is none.
            maximum, minimum: this worker's range of these elements; updated in place.
            round_: counts from 0, the same for all buckets of a step.

        Returns:
            the workers that took part.
        """
        self._global["round"] = round_
        (worker,) = self.exchange.hosted
        self._global["ranges"][worker] = {"max": maximum, "min": minimum}
        for stand_in, place, gradient in zip(
            self._stand_ins, self._gradients, gradients, strict=True
        ):
            stand_in.grad = None
            if gradient is not None:
                place.copy_(gradient.flatten())
                stand_in.grad = place
        self.vote.zero_()
        self.compress()
        self.step()
        self.vote.neg_()
        return self.participants

    def _warn(self, message: str) -> None:
        """Under a GradScaler infinite gradients are routine, in any of the buckets."""

    @property
    def votes(self) -> Sequence[Tensor]:
        """The vote by parameter, flat: what `lr` is multiplied by."""
        return [stand_in.data for stand_in in self._stand_ins]

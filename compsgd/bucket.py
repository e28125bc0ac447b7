"""The vote on a part of a model, as the whole model would have voted on it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from compsgd.ballot import BallotHeader
from compsgd.electorate import Electorate
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange
from compsgd.flat import Run
from compsgd.gradient_parts import GradientPart, GradientParts
from compsgd.magnitudes import level_magnitudes, magnitudes, write_levels
from compsgd.optimizers import CompressedSGDVote
from compsgd.scratch import Scratch

_FLOAT_BYTES = 4


class BucketVote(CompressedSGDVote):
    """Votes on neighbouring parameters, and hands the vote back instead of applying it.

    The range is the caller's, who may join parameters otherwise in another round; the random bits
    are those that the same elements have in a vote on all parameters. On request a ballot's header
    also carries the mean magnitude of each tensor's gradient, 4 bytes a tensor.
    """

    def __init__(
        self,
        shapes: Sequence[torch.Size],
        first: int,
        device: torch.device,
        exchange: Exchange,
        *,
        scale: float | None,
        scratch: Scratch,
        **settings: Any,
    ) -> None:
        """
        Args:
            shapes: of the parameters, in model order.
            first: where they begin in the flat vector of all parameters.
            device: where they are.
            exchange: carries the ballots.
            scale: what a level becomes; None for the mean magnitude of the voters' gradients over
                that of the levels, tensor by tensor.
            scratch: of float32, for the gradient; free again after each round.
            settings: num_bits, binning, decay_min, decay_max, rand_zero, seed and compile, as for
                CompressedSGDVote.
        """
        self._num_parameters = len(shapes)
        self._scale = scale
        self._scratch = scratch
        nothing = torch.zeros((), dtype=torch.float32, device=device)
        # They have a shape and take no memory: nothing is applied to them.
        stand_ins = [
            torch.nn.Parameter(nothing.expand(shape), requires_grad=False) for shape in shapes
        ]
        super().__init__(stand_ins, 1.0, exchange=exchange, **settings)
        self._first = first

    def cast(
        self,
        round_: int,
        gradients: Sequence[Tensor],
        present: Sequence[bool],
        maximum: Tensor,
        minimum: Tensor,
    ) -> bool:
        """One round: the gradients become the scaled vote, and 0 where nobody votes.

        Args:
            round_: counts from 0, the same for all buckets of a step.
            gradients: this worker's, by parameter, contiguous; overwritten.
            present: by parameter, whether there is one.
            maximum, minimum: this worker's range of these elements, flat; updated in place.

        Returns:
            whether there is an outcome; otherwise nobody's gradients are finite, and the gradients
            are as they were.
        """
        (worker,) = self.exchange.hosted
        self._global["round"] = round_
        self._global["ranges"][worker] = {"max": maximum, "min": minimum}
        self._gradients, self._present = gradients, list(present)
        self._take_round()
        return not self._all_sit_out

    # A round from the inside.

    def _gather_gradient(self) -> tuple[GradientParts, list[bool]]:
        parts = [
            GradientPart(run, gradient.to(torch.float32).view(-1))
            for gradient, run, is_present in zip(
                self._gradients, self._layout.runs, self._present, strict=True
            )
            if is_present
        ]
        return GradientParts(parts, self._layout, self._device, self._scratch), self._present

    def _first_non_finite(self, gradient: GradientParts) -> int | None:
        """Takes note of the mean magnitudes, too: they need the same pass over the gradient."""
        values = [part.values for part in gradient.parts]
        totals = iter(magnitudes(values, self._alphabet, self.kernels))
        self._own_means = [
            next(totals) / max(run.numel, 1) if is_present else 0.0
            for run, is_present in zip(self._layout.runs, self._present, strict=True)
        ]
        is_finite = all(map(math.isfinite, self._own_means))
        return None if is_finite else gradient.culprit()

    def _combine(
        self, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Iterator[tuple[Run, Tensor]]:
        """All at once, as codes."""
        yield Run(0, self._layout.numel), self._tally().vote_codes(electorates, payloads)

    def _move(self, headers: Sequence[BallotHeader], updates: Iterable[tuple[Run, Tensor]]) -> None:
        ((_, codes),) = updates
        parts = [codes[run.slice] for run in self._layout.runs]
        has_voters = self._has_voters(headers)
        scales = self._scales(parts)
        for gradient, part, scale, is_voted in zip(
            self._gradients, parts, scales, has_voters, strict=True
        ):
            if is_voted:
                write_levels(gradient.view(-1), part, scale, self._alphabet, self.kernels)
            else:
                gradient.zero_()

    def _scales(self, parts: Sequence[Tensor]) -> list[float]:
        """By parameter, from the codes of its vote."""
        if self._scale is not None:
            return [self._scale] * self._num_parameters
        totals = level_magnitudes(parts, self._alphabet, self.kernels)
        return [
            magnitude * part.numel() / total if total else 0.0
            for magnitude, part, total in zip(self._magnitudes.tolist(), parts, totals, strict=True)
        ]

    def _note_participation(self, headers: Sequence[BallotHeader]) -> None:
        super()._note_participation(headers)
        some_blamed = any(header.non_finite is not None for header in headers)
        self._all_sit_out = some_blamed and not self.participants

    def _combine_nothing(self) -> None:
        if not self._all_sit_out:
            for gradient in self._gradients:
                gradient.zero_()

    def _end_round(self) -> None:
        """A step has other buckets: its end is the caller's affair."""
        self._global["ballots"] = {}

    def _warn(self, message: str) -> None:
        """Under a GradScaler infinite gradients are routine."""

    # The header carries mean magnitudes behind the usual.

    def _header_num_bytes(self) -> int:
        extra = _FLOAT_BYTES * self._num_parameters if self._scale is None else 0
        return super()._header_num_bytes() + extra

    def _hosted_header(self, worker: int) -> Tensor:
        header = super()._hosted_header(worker)
        if self._scale is not None:
            return header
        # Of a gradient that is not finite nobody uses the magnitude.
        means = torch.tensor(self._own_means, dtype=torch.float32).nan_to_num(0, 0, 0)
        return torch.cat([header, means.view(torch.uint8)])

    def _read_headers(self, rows: Tensor) -> list[BallotHeader]:
        headers = super()._read_headers(rows)
        if self._scale is None:
            end = self._header_num_bytes()
            wire = rows[:, end - _FLOAT_BYTES * self._num_parameters : end].cpu().contiguous()
            self._magnitudes = _mean_of_voters(wire.view(torch.float32), headers)
        return headers


def _mean_of_voters(means: Tensor, headers: Sequence[BallotHeader]) -> Tensor:
    """By parameter, the mean over those who vote on it.

    Args:
        means: shape (num_workers, num_parameters).
    """
    for header, row in zip(headers, means, strict=True):
        if not bool((row.isfinite() & (row >= 0)).all()):
            raise CompsgdError(f"worker {header.worker} sends a mean magnitude that cannot be one")
    votes = torch.tensor([header.present for header in headers])
    mean: Tensor = (means * votes).sum(0) / votes.sum(0).clamp(min=1)
    return mean

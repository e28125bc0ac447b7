"""The vote on a part of a model, as the whole model would have voted on it."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from compsgd.ballot import BallotHeader
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange
from compsgd.flat import Run
from compsgd.magnitudes import add_level_magnitudes, total_magnitude
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

    def _gather_gradient(self) -> tuple[Tensor, list[bool]]:
        flat = self._scratch.flat(self._layout.numel, self._device)
        self._own_magnitudes = torch.zeros(
            self._num_parameters, dtype=torch.float32, device=self._device
        )
        for i, (gradient, run) in enumerate(zip(self._gradients, self._layout.runs, strict=True)):
            part = flat[run.slice]
            if not self._present[i]:
                part.zero_()
                continue
            part.view(gradient.shape).copy_(gradient)
            if self._scale is None:
                self._own_magnitudes[i] = total_magnitude(part, self.kernels) / run.numel
        return flat, self._present

    def _move(self, headers: Sequence[BallotHeader], updates: Iterable[tuple[Run, Tensor]]) -> None:
        totals = torch.zeros(self._num_parameters, dtype=torch.float64, device=self._device)
        for run, update in updates:
            if self._scale is None:
                add_level_magnitudes(totals, update, run, self._layout, self.kernels)
            for index, part in self._layout.parts_of(run):
                place = part.shifted(-self._layout.runs[index].start)
                levels = update[part.shifted(-run.start).slice]
                self._gradients[index].view(-1)[place.slice] = levels
        has_voters = self._has_voters(headers)
        for gradient, voted, scale in zip(
            self._gradients, has_voters, self._scales(totals), strict=True
        ):
            if not voted:
                gradient.zero_()
            elif scale != 1:
                gradient *= scale

    def _scales(self, totals: Tensor) -> list[float]:
        """By parameter.

        Args:
            totals: the sum of the magnitudes of its levels.
        """
        if self._scale is not None:
            return [self._scale] * self._num_parameters
        return [
            magnitude * run.numel / total if total else 0.0
            for magnitude, run, total in zip(
                self._magnitudes.tolist(), self._layout.runs, totals.tolist(), strict=True
            )
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
        means = self._own_magnitudes.cpu().nan_to_num(0, 0, 0)
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

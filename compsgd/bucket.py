"""The vote on a part of a model, as the whole model would have voted on it."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from compsgd.ballot import BallotHeader
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange
from compsgd.flat import Run
from compsgd.optimizers import CompressedSGDVote

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
        measures: bool,
        **settings: Any,
    ) -> None:
        """
        Args:
            shapes: of the parameters, in model order.
            first: where they begin in the flat vector of all parameters.
            device: where they are.
            exchange: carries the ballots.
            measures: whether mean magnitudes travel.
            settings: num_bits, binning, decay_min, decay_max, rand_zero, seed and compile, as for
                CompressedSGDVote.
        """
        self._shapes = list(shapes)
        self._measures = measures
        nothing = torch.zeros((), device=device)
        # They have a shape and take no memory: nothing is applied to them.
        stand_ins = [
            torch.nn.Parameter(nothing.expand(shape), requires_grad=False) for shape in shapes
        ]
        super().__init__(stand_ins, 1.0, exchange=exchange, **settings)
        self._first = first
        self._magnitudes = torch.zeros(len(shapes))

    def cast(
        self,
        round_: int,
        gradient: Tensor,
        present: Sequence[bool],
        maximum: Tensor,
        minimum: Tensor,
        *,
        out: Tensor,
    ) -> bool:
        """One round.

        Args:
            round_: counts from 0, the same for all buckets of a step.
            gradient: this worker's, flat float32, 0 where there is none.
            present: by parameter, whether there is a gradient.
            maximum, minimum: this worker's range of these elements; updated in place.
            out: flat float32; takes the vote, the mean level rounded away from zero, and 0 where
                nobody votes.

        Returns:
            whether anybody voted; otherwise `out` is as it was.
        """
        (worker,) = self.exchange.hosted
        self._global["round"] = round_
        self._global["ranges"][worker] = {"max": maximum, "min": minimum}
        self._gradient, self._present, self._out = gradient, list(present), out
        self.step()
        return bool(self.participants)

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat vector, by parameter."""
        return [
            flat[run.slice].view(shape)
            for run, shape in zip(self._layout.runs, self._shapes, strict=True)
        ]

    def mean_abs_scales(self, vote: Tensor) -> list[float]:
        """By parameter, what the last round's vote must be multiplied by to have the mean
        magnitude of the gradients of those who voted; 0 where all levels are.

        Args:
            vote: what `cast` has put `out`.
        """
        levels = [float(_mean_abs(part)) for part in self.parts(vote)]
        return [
            float(magnitude) / level if level else 0.0
            for magnitude, level in zip(self._magnitudes, levels, strict=True)
        ]

    # A round from the inside.

    def _gather_gradient(self) -> tuple[Tensor, list[bool]]:
        return self._gradient, self._present

    def _move(self, headers: Sequence[BallotHeader], updates: Iterable[tuple[Run, Tensor]]) -> None:
        for run, update in updates:
            self._out[run.slice] = update
        for i, run in enumerate(self._layout.runs):
            if not any(header.present[i] for header in headers):
                self._out[run.slice] = 0

    def _end_round(self) -> None:
        """A step has other buckets: its end is the caller's affair."""
        self._global["ballots"] = {}

    def _warn(self, message: str) -> None:
        """Under a GradScaler infinite gradients are routine."""

    # The header carries mean magnitudes behind the usual.

    def _header_num_bytes(self) -> int:
        extra = _FLOAT_BYTES * len(self._shapes) if self._measures else 0
        return super()._header_num_bytes() + extra

    def _hosted_header(self, worker: int) -> Tensor:
        header = super()._hosted_header(worker)
        if not self._measures:
            return header
        means = torch.stack([_mean_abs(part) for part in self.parts(self._gradient)]).cpu()
        # Of a gradient that is not finite nobody uses the mean.
        means[~means.isfinite()] = 0
        return torch.cat([header, means.view(torch.uint8)])

    def _read_headers(self, rows: Tensor) -> list[BallotHeader]:
        headers = super()._read_headers(rows)
        if self._measures:
            end = self._header_num_bytes()
            wire = rows[:, end - _FLOAT_BYTES * len(self._shapes) : end].cpu().contiguous()
            self._magnitudes = _mean_of_voters(wire.view(torch.float32), headers)
        return headers


def _mean_abs(part: Tensor) -> Tensor:
    total: Tensor = torch.linalg.vector_norm(part, 1)
    return total / part.numel()


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

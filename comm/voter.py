"""One process's side of the votes on a model that DistributedDataParallel trains."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compsgd.binning import empty_range
from compsgd.bucket import BucketVote
from compsgd.comm.averaging import average, start_average_of_finite
from compsgd.comm.collectives import Collectives
from compsgd.comm.exchange import build_exchange
from compsgd.comm.presence import Presence
from compsgd.comm.vote_settings import VoteSettings
from compsgd.comm.voted_params import VotedParams, as_laid_out
from compsgd.comm.worker_thread import WorkerThread
from compsgd.errors import CompsgdError
from compsgd.flat import Run
from compsgd.scratch import Scratch


@dataclass(frozen=True)
class _Slot:
    """A parameter in a bucket.

    Attributes:
        gradient: its part of the bucket.
        place: its number among the parameters that are voted on; None if it is averaged.
        is_present: whether it has got a gradient here.
    """

    gradient: Tensor
    place: int | None
    is_present: bool


@dataclass(frozen=True)
class _Job:
    """A bucket on its way.

    Attributes:
        round: counts votes from 0; negative before the first.
        ready: what the device does before the gradients are there.
    """

    buffer: Tensor
    slots: list[_Slot]
    round: int
    is_last: bool
    ready: Any
    future: torch.futures.Future[Tensor]


class Voter:
    """Takes buckets, and overwrites each by the vote on it, one after another on its own thread.

    A thread of its own, because collectives that are started in the callback of another one hang
    over gloo (design, section 10).
    """

    def __init__(
        self,
        settings: VoteSettings,
        params: VotedParams,
        presence: Presence,
        collectives: Collectives,
    ) -> None:
        """
        Args:
            settings: how to vote.
            params: the model's.
            presence: which of them have got a gradient.
            collectives: of a group that nobody else uses.
        """
        self._settings = settings
        self._params = params
        self._presence = presence
        self._collectives = collectives
        self._exchange = build_exchange(settings.exchange, collectives)
        self._bounds = empty_range(params.layout.numel, params.device)
        self._votes: dict[Run, BucketVote] = {}
        self._used: set[Run] = set()
        self._scratch = Scratch(torch.float32)
        self._stream = torch.cuda.Stream(params.device) if params.device.type == "cuda" else None
        self._error: Exception | None = None
        self._thread = WorkerThread("vote_hook")

    @property
    def world_size(self) -> int:
        return self._collectives.world_size

    def ranges(self) -> dict[str, Tensor]:
        """A copy of this process's range, on the CPU; `max` and `min`, flat float32, over the
        parameters that are voted on."""
        maximum, minimum = self._bounds
        return {"max": maximum.cpu().clone(), "min": minimum.cpu().clone()}

    def load_ranges(self, ranges: dict[str, Tensor] | None) -> None:
        """Takes over what `ranges` returned, for the same parameters; None for a range that has
        seen nothing."""
        if ranges is None:
            self._bounds = empty_range(self._params.layout.numel, self._params.device)
            return
        maximum, minimum = self._bounds
        maximum.copy_(ranges["max"])
        minimum.copy_(ranges["min"])

    def submit(
        self,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
        iteration: int,
    ) -> torch.futures.Future[Tensor]:
        """Takes note of what is there, in the thread of backward, and leaves the rest to ours.

        Raises:
            CompsgdError: a parameter that it does not know, or a gradient that is sparse.
        """
        if bucket.buffer().layout != torch.strided:
            raise CompsgdError("a gradient is sparse; the vote takes dense ones (sparse=False)")
        round_ = iteration - self._settings.start_vote_iter
        slots = [
            self._slot(gradient, parameter, round_)
            for gradient, parameter in zip(bucket.gradients(), bucket.parameters(), strict=True)
        ]
        devices: list[Any] = [self._params.device] if self._stream else []
        future: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
        ready = (
            torch.cuda.current_stream(self._params.device).record_event() if self._stream else None
        )
        if bucket.is_last():
            self._presence.forget()
        job = _Job(bucket.buffer(), slots, round_, bucket.is_last(), ready, future)
        self._thread.submit(lambda: self._finish(job))
        return future

    def _slot(self, gradient: Tensor, parameter: Tensor, round_: int) -> _Slot:
        place = self._params.place(parameter)
        laid_out = as_laid_out(gradient, parameter)
        return _Slot(laid_out, place if round_ >= 0 else None, self._presence.has(parameter))

    # In our thread.

    def _finish(self, job: _Job) -> None:
        """Completes the future, whatever happens: backward waits for it without a time limit."""
        try:
            with torch.cuda.stream(self._stream) if self._stream else nullcontext():
                if self._error is not None:
                    # The others may be one collective behind: nothing would fit any more.
                    raise self._error
                self._do(job)
                job.future.set_result(job.buffer)
        except Exception as error:
            self._error = error
            job.future.set_exception(error)  # type: ignore[arg-type]

    @torch.no_grad()
    def _do(self, job: _Job) -> None:
        if self._stream is not None:
            self._stream.wait_event(job.ready)
        averaged = [slot.gradient for slot in job.slots if slot.place is None]
        if job.round < 0:
            average(averaged, self._collectives)
        else:
            # Small, and on its way while the rest is voted on.
            finish_average = start_average_of_finite(averaged, self._collectives)
            for slots in _neighbours(job.slots):
                self._vote_on(slots, job.round)
            finish_average()
        if job.is_last:
            self._collectives.ledger.end_round(range(self.world_size))
            self._drop_unused()

    def _vote_on(self, slots: Sequence[_Slot], round_: int) -> None:
        """One vote, on parameters that are neighbours."""
        first, last = slots[0].place, slots[-1].place
        assert first is not None
        assert last is not None
        runs = self._params.layout.runs
        run = Run(runs[first].start, runs[last].end)
        gradients = [slot.gradient.contiguous() for slot in slots]
        present = [slot.is_present for slot in slots]
        maximum, minimum = (bound[run.slice] for bound in self._bounds)
        bucket_vote = self._bucket_vote(run, gradients)
        if not bucket_vote.cast(round_, gradients, present, maximum, minimum):
            average(gradients, self._collectives)
        for slot, gradient in zip(slots, gradients, strict=True):
            if gradient is not slot.gradient:
                slot.gradient.copy_(gradient)

    def _bucket_vote(self, run: Run, gradients: Sequence[Tensor]) -> BucketVote:
        self._used.add(run)
        if run not in self._votes:
            self._votes[run] = BucketVote(
                [gradient.shape for gradient in gradients],
                run.start,
                self._params.device,
                self._exchange,
                scale=self._settings.factor,
                scratch=self._scratch,
                **self._settings.for_optimizer(),
            )
        return self._votes[run]

    def _drop_unused(self) -> None:
        """Buckets are rebuilt after the first iteration; the old ones' buffers can go."""
        self._votes = {run: vote for run, vote in self._votes.items() if run in self._used}
        self._used = set()


def _neighbours(slots: Sequence[_Slot]) -> list[list[_Slot]]:
    """Those that are voted on in model order, cut where they are no neighbours there."""
    by_place = {slot.place: slot for slot in slots if slot.place is not None}
    runs: list[list[_Slot]] = []
    for place in sorted(by_place):
        if place - 1 not in by_place:
            runs.append([])
        runs[-1].append(by_place[place])
    return runs

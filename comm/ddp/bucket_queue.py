"""Buckets of DistributedDataParallel, voted on one behind the other while backward goes on: one is
coded while the one before it travels.

On a thread of its own, because collectives that are started in the callback of another one hang
over gloo.
"""

from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from compsgd.comm.ddp.trial import Trial
from compsgd.comm.group.worker_thread import WorkerThread
from compsgd.comm.group_vote import GroupVote, Taken
from compsgd.comm.parameters import GradientTracker, ParamGradient, VotedParams, as_laid_out
from compsgd.errors import SettingError

# One that is counted, and one on its way to be.
_MOST_UNDERWAY = 2


@dataclass(frozen=True)
class _Job:
    """A bucket on its way.

    Attributes:
        round: counts votes from 0; negative before the first.
        votes: whether it is voted on; averaged otherwise.
        ready: what the device does before the gradients are there.
    """

    buffer: torch.Tensor
    gradients: list[ParamGradient]
    round: int
    votes: bool
    is_last: bool
    ready: Any
    future: torch.futures.Future[torch.Tensor]


class BucketQueue:
    """Overwrites each bucket by the vote on it, in the order in which they come."""

    def __init__(
        self,
        vote: GroupVote,
        params: VotedParams,
        tracker: GradientTracker,
        trial: Trial | None,
    ) -> None:
        """
        Args:
            vote: what happens to gradients.
            params: the model's.
            tracker: which of them have got a gradient.
            trial: whether a vote is what happens; None if it always is.
        """
        self._vote = vote
        self._params = params
        self._tracker = tracker
        self._trial = trial
        self._stream = torch.cuda.Stream(params.device) if params.device.type == "cuda" else None
        self._error: Exception | None = None
        self._underway: deque[tuple[_Job, Taken]] = deque()
        self._thread = WorkerThread("vote_hook")

    def submit(
        self,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
        round_: int,
    ) -> torch.futures.Future[torch.Tensor]:
        """Takes note of what is there, in the thread of backward, and leaves the rest to ours.

        Raises:
            SettingError: a parameter that it does not know, or a gradient that is sparse.
        """
        if bucket.buffer().layout != torch.strided:
            raise SettingError("a gradient is sparse; the vote takes dense ones (sparse=False)")
        gradients = [
            ParamGradient(
                as_laid_out(gradient, parameter),
                self._params.place(parameter),
                self._tracker.has(parameter),
            )
            for gradient, parameter in zip(bucket.gradients(), bucket.parameters(), strict=True)
            # DistributedDataParallel goes on with what was frozen after it was made: as zeros.
            if parameter.requires_grad
        ]
        devices: list[Any] = [self._params.device] if self._stream else []
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future(devices=devices)
        ready = (
            torch.cuda.current_stream(self._params.device).record_event() if self._stream else None
        )
        if bucket.is_last():
            self._tracker.forget()
        votes = self._trial is None or self._trial.votes
        if self._trial is not None and round_ >= 0:
            self._trial.begin_step()
        job = _Job(bucket.buffer(), gradients, round_, votes, bucket.is_last(), ready, future)
        self._thread.submit(lambda: self._advance(job))
        return future

    # In our thread.

    def _advance(self, job: _Job) -> None:
        """Completes futures, whatever happens: backward waits for them without a time limit."""
        try:
            with torch.cuda.stream(self._stream) if self._stream else nullcontext():
                if self._error is not None:
                    # The others may be one collective behind: nothing would fit any more.
                    raise self._error
                if self._stream is not None:
                    self._stream.wait_event(job.ready)
                self._begin(job)
                if job.is_last:
                    self._end_step()
        except Exception as error:
            self._error = error
            for one in [*(underway for underway, _ in self._underway), job]:
                if not one.future.done():
                    one.future.set_exception(error)  # type: ignore[arg-type]
            self._underway.clear()

    def _begin(self, job: _Job) -> None:
        """Sends a bucket, counts the one before, and finishes the one before that: all processes
        in the same order, whatever arrives first."""
        if job.votes:
            taken = self._vote.send(job.gradients, job.round)
        else:
            taken = self._vote.send_to_average(job.buffer, job.gradients)
        self._underway.append((job, taken))
        if len(self._underway) > 1:
            self._vote.count(self._underway[-2][1])
        if len(self._underway) > _MOST_UNDERWAY:
            self._finish_first()

    def _end_step(self) -> None:
        self._vote.count(self._underway[-1][1])
        while self._underway:
            self._finish_first()

    def _finish_first(self) -> None:
        job, taken = self._underway[0]
        self._vote.finish(taken)
        if job.is_last:
            self._vote.end_step(job.round)
            if self._trial is not None:
                self._trial.end_step(self._vote.share)
        self._underway.popleft()
        job.future.set_result(job.buffer)

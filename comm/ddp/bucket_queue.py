"""Buckets of DistributedDataParallel, voted on one after another while backward goes on.

On a thread of its own, because collectives that are started in the callback of another one hang
over gloo.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from compsgd.comm.group.worker_thread import WorkerThread
from compsgd.comm.group_vote import GroupVote, ParamGradient
from compsgd.comm.parameters import GradientTracker, VotedParams, as_laid_out
from compsgd.errors import SettingError


@dataclass(frozen=True)
class _Job:
    """A bucket on its way.

    Attributes:
        round: counts votes from 0; negative before the first.
        ready: what the device does before the gradients are there.
    """

    buffer: torch.Tensor
    gradients: list[ParamGradient]
    round: int
    is_last: bool
    ready: Any
    future: torch.futures.Future[torch.Tensor]


class BucketQueue:
    """Overwrites each bucket by the vote on it, in the order in which they come."""

    def __init__(self, vote: GroupVote, params: VotedParams, tracker: GradientTracker) -> None:
        """
        Args:
            vote: what happens to gradients.
            params: the model's.
            tracker: which of them have got a gradient.
        """
        self._vote = vote
        self._params = params
        self._tracker = tracker
        self._stream = torch.cuda.Stream(params.device) if params.device.type == "cuda" else None
        self._error: Exception | None = None
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
        job = _Job(bucket.buffer(), gradients, round_, bucket.is_last(), ready, future)
        self._thread.submit(lambda: self._finish(job))
        return future

    # In our thread.

    def _finish(self, job: _Job) -> None:
        """Completes the future, whatever happens: backward waits for it without a time limit."""
        try:
            with torch.cuda.stream(self._stream) if self._stream else nullcontext():
                if self._error is not None:
                    # The others may be one collective behind: nothing would fit any more.
                    raise self._error
                if self._stream is not None:
                    self._stream.wait_event(job.ready)
                self._vote.take(job.gradients, job.round)
                if job.is_last:
                    self._vote.end_step(job.round)
                job.future.set_result(job.buffer)
        except Exception as error:
            self._error = error
            job.future.set_exception(error)  # type: ignore[arg-type]

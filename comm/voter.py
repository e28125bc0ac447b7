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
from compsgd.comm.collectives import Collectives
from compsgd.comm.exchange import build_exchange
from compsgd.comm.presence import Presence
from compsgd.comm.vote_settings import VoteSettings
from compsgd.comm.worker_thread import WorkerThread
from compsgd.errors import CompsgdError
from compsgd.flat import FlatLayout, Run
from compsgd.scratch import Scratch


@dataclass(frozen=True)
class _Slot:
    """A parameter in a bucket.

    Attributes:
        gradient: its part of the bucket.
        place: its number among the parameters that are voted on; None if it is averaged now.
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
        params: Sequence[Tensor],
        presence: Presence,
        collectives: Collectives,
    ) -> None:
        """
        Args:
            settings: how to vote.
            params: the model's parameters in its order, all on one device.
            presence: which of them have got a gradient.
            collectives: of a group that nobody else uses.
        """
        self._settings = settings
        self._presence = presence
        self._collectives = collectives
        self._exchange = build_exchange(settings.exchange, collectives)
        self._device = _common_device(params)
        self._places = _places(settings, params)
        self._layout = FlatLayout(
            [param.numel() for param in params if self._places[id(param)] is not None]
        )
        self._bounds = empty_range(self._layout.numel, self._device)
        self._votes: dict[Run, BucketVote] = {}
        self._used: set[Run] = set()
        self._scratch = Scratch(torch.float32)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._thread = WorkerThread("vote_hook")

    @property
    def world_size(self) -> int:
        return self._collectives.world_size

    def ranges(self) -> dict[str, Tensor]:
        """A copy of this process's range, on the CPU; `max` and `min`, flat float32, over the
        parameters that are voted on."""
        maximum, minimum = self._bounds
        return {"max": maximum.cpu().clone(), "min": minimum.cpu().clone()}

    def load_ranges(self, ranges: dict[str, Tensor]) -> None:
        """Raises CompsgdError for a range of other parameters; nothing is loaded then."""
        for bound, name in zip(self._bounds, ("max", "min"), strict=True):
            if ranges[name].shape != bound.shape:
                raise CompsgdError(
                    f"this state_dict's range is of {ranges[name].numel()} elements; these "
                    f"parameters have {bound.numel()} to vote on"
                )
        for bound, name in zip(self._bounds, ("max", "min"), strict=True):
            bound.copy_(ranges[name])

    def forget_ranges(self) -> None:
        """Back to a range that has seen no gradient."""
        self._bounds = empty_range(self._layout.numel, self._device)

    def submit(
        self,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
        iteration: int,
    ) -> torch.futures.Future[Tensor]:
        """Takes note of what is there, in the thread of backward, and leaves the rest to ours.

        Raises:
            CompsgdError: a parameter that it does not know.
        """
        round_ = iteration - self._settings.start_vote_iter
        slots = [
            self._slot(gradient, parameter, round_)
            for gradient, parameter in zip(bucket.gradients(), bucket.parameters(), strict=True)
        ]
        devices: list[Any] = [self._device] if self._stream else []
        future: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
        ready = torch.cuda.current_stream(self._device).record_event() if self._stream else None
        if bucket.is_last():
            self._presence.forget()
        job = _Job(bucket.buffer(), slots, round_, bucket.is_last(), ready, future)
        self._thread.submit(lambda: self._finish(job))
        return future

    def _slot(self, gradient: Tensor, parameter: Tensor, round_: int) -> _Slot:
        if id(parameter) not in self._places:
            raise CompsgdError(
                f"a parameter of shape {tuple(parameter.shape)} is not among VoteState's params"
            )
        place = self._places[id(parameter)] if round_ >= 0 else None
        return _Slot(gradient, place, self._presence.has(parameter))

    # In our thread.

    def _finish(self, job: _Job) -> None:
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            try:
                self._do(job)
            except Exception as error:
                job.future.set_exception(error)  # type: ignore[arg-type]
            else:
                job.future.set_result(job.buffer)

    @torch.no_grad()
    def _do(self, job: _Job) -> None:
        if self._stream is not None:
            self._stream.wait_event(job.ready)
        is_voted = [slot.place is not None and job.round >= 0 for slot in job.slots]
        for slots in _neighbours(
            [s for s, voted in zip(job.slots, is_voted, strict=True) if voted]
        ):
            self._vote_on(slots, job.round)
        self._average([s for s, voted in zip(job.slots, is_voted, strict=True) if not voted])
        if job.is_last:
            self._collectives.ledger.end_round(range(self.world_size))
            self._drop_unused()

    def _vote_on(self, slots: Sequence[_Slot], round_: int) -> None:
        """One vote, on parameters that are neighbours."""
        first, last = slots[0].place, slots[-1].place
        assert first is not None
        assert last is not None
        run = Run(self._layout.runs[first].start, self._layout.runs[last].end)
        maximum, minimum = (bound[run.slice] for bound in self._bounds)
        has_votes = self._bucket_vote(run, slots).cast(
            round_,
            [slot.gradient for slot in slots],
            [slot.is_present for slot in slots],
            maximum,
            minimum,
        )
        if not has_votes:
            # What plain DDP would have: a GradScaler is to see infinities.
            self._average(slots)

    def _bucket_vote(self, run: Run, slots: Sequence[_Slot]) -> BucketVote:
        self._used.add(run)
        if run not in self._votes:
            self._votes[run] = BucketVote(
                [slot.gradient.shape for slot in slots],
                run.start,
                self._device,
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

    def _average(self, slots: Sequence[_Slot]) -> None:
        """The mean of all processes, as plain DDP takes it."""
        if not slots:
            return
        flat = torch.cat([slot.gradient.flatten().float() for slot in slots])
        self._collectives.all_reduce(flat)
        flat /= self.world_size
        parts = flat.split([slot.gradient.numel() for slot in slots])
        for slot, part in zip(slots, parts, strict=True):
            slot.gradient.copy_(part.view(slot.gradient.shape))


def _common_device(params: Sequence[Tensor]) -> torch.device:
    devices = {param.device for param in params}
    if len(devices) != 1:
        raise CompsgdError(
            f"the parameters lie on {len(devices)} devices; the vote needs all of them on one"
        )
    return devices.pop()


def _places(settings: VoteSettings, params: Sequence[Tensor]) -> dict[int, int | None]:
    """By parameter, its number among those that are voted on."""
    places: dict[int, int | None] = {}
    num_voted = 0
    for param in params:
        is_exempt = settings.exempt_1d and param.ndim <= 1
        if is_exempt or param.numel() < max(1, settings.min_compress_numel):
            places[id(param)] = None
        else:
            places[id(param)] = num_voted
            num_voted += 1
    return places


def _neighbours(slots: Sequence[_Slot]) -> list[list[_Slot]]:
    """Those that are voted on in model order, cut where they are no neighbours there."""
    by_place = {slot.place: slot for slot in slots if slot.place is not None}
    runs: list[list[_Slot]] = []
    for place in sorted(by_place):
        if place - 1 not in by_place:
            runs.append([])
        runs[-1].append(by_place[place])
    return runs

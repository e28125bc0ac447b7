"""Voted gradients in anyone's DistributedDataParallel: a communication hook.

The signature and the conventions are those of torch.distributed.algorithms.ddp_comm_hooks.
"""

import math
import queue
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from compsgd.binning import BINNINGS, empty_range
from compsgd.bucket import BucketVote
from compsgd.checks import check_choice, check_decay, check_flag, check_integer, check_num_bits
from compsgd.comm.collectives import Collectives
from compsgd.comm.cost import ring_all_reduce
from compsgd.comm.exchange import EXCHANGES, build_exchange
from compsgd.comm.ledger import Ledger, Purpose
from compsgd.compiling import COMPILE_CHOICES
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange

_SETTINGS = (
    "num_bits",
    "binning",
    "decay_min",
    "decay_max",
    "rand_zero",
    "scale",
    "exchange",
    "min_compress_numel",
    "exempt_1d",
    "start_vote_iter",
    "seed",
    "compile",
    "timeout_s",
)


class _BucketExchange:
    """An exchange for one bucket: a step has several, and ends after the last one."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    def end_round(self, participants: Sequence[int]) -> None:
        pass


class _Presence:
    """Which parameters have got a gradient since the last synchronised backward pass. A bucket does
    not tell: it has zeros where there is none."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._received: set[int] = set()
        self._handles = [
            parameter.register_post_accumulate_grad_hook(self._note) for parameter in params
        ]

    def has(self, parameter: Tensor) -> bool:
        return id(parameter) in self._received

    def forget(self) -> None:
        self._received.clear()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, parameter: Tensor) -> None:
        self._received.add(id(parameter))


@dataclass
class _Job:
    """One bucket on its way."""

    buffer: Tensor
    parameters: list[Tensor]
    gradients: list[Tensor]
    present: list[bool]
    is_last: bool
    future: torch.futures.Future[Tensor]
    round_: int
    iteration: int


class VoteState:
    """Settings and state of `vote_hook`, as torch's own hooks have them.

    Attributes:
        process_group: over whose processes; None for all. Its collectives run on a group of their
            own made from it, so that they meet none of DDP's.
        iteration: how many backward passes have been synchronised.
        ledger: the bytes of every step.
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup | None = None,
        params: Iterable[Tensor] | None = None,
        *,
        num_bits: int = 3,
        binning: str = "lin",
        decay_min: float = 1.0,
        decay_max: float = 1.0,
        rand_zero: bool = True,
        scale: float | str = 1.0,
        exchange: str = "auto",
        min_compress_numel: int = 0,
        exempt_1d: bool = False,
        start_vote_iter: int = 0,
        seed: int = 0,
        compile: str = "auto",
        timeout_s: float = 1800.0,
    ) -> None:
        """
        Args:
            process_group: over whose processes; None for all.
            params: the model's parameters in its order; `wrap` fills them in.
            num_bits, binning, decay_min, decay_max, rand_zero, seed, compile: as for
                compsgd.CompressedSGDVote.
            scale: what a level becomes as a gradient. A number: itself times that, so that with 1
                plain SGD moves a parameter by lr for each level. "mean_abs": each tensor's mean
                absolute value is that of the workers' gradients, so that learning rates and
                adaptive optimizers keep their meaning, for 4 more bytes a tensor.
            exchange: "auto", "all_gather" or "scatter_reduce".
            min_compress_numel: smaller parameters are averaged in float32.
            exempt_1d: whether vectors and scalars (norms, biases) are, too.
            start_vote_iter: iterations before the first vote, with plain averages.
            timeout_s: how long a collective may take.

        Raises:
            CompsgdError: an argument out of bounds.
        """
        self.process_group = process_group
        self.num_bits = check_num_bits(num_bits)
        self.binning = check_choice("binning", binning, BINNINGS)
        self.decay_min = check_decay("decay_min", decay_min)
        self.decay_max = check_decay("decay_max", decay_max)
        self.rand_zero = check_flag("rand_zero", rand_zero)
        self.scale = _check_scale(scale)
        self.exchange = check_choice("exchange", exchange, EXCHANGES)
        self.min_compress_numel = check_integer("min_compress_numel", min_compress_numel, 0)
        self.exempt_1d = check_flag("exempt_1d", exempt_1d)
        self.start_vote_iter = check_integer("start_vote_iter", start_vote_iter, 0)
        self.seed = check_integer("seed", seed, 0)
        self.compile = check_choice("compile", compile, COMPILE_CHOICES)
        self.timeout_s = float(timeout_s)
        self.iteration = 0
        self.ledger = Ledger()
        self._saved: dict[str, Any] | None = None
        self._voter: _Voter | None = None
        self._params: list[Tensor] | None = None
        self._presence: _Presence | None = None
        if params is not None:
            self.params = list(params)

    @property
    def params(self) -> list[Tensor] | None:
        """The model's parameters in its order; those that need no gradient do not count."""
        return self._params

    @params.setter
    def params(self, params: Iterable[Tensor]) -> None:
        self._params = [parameter for parameter in params if parameter.requires_grad]
        if self._presence is not None:
            self._presence.remove()
        self._presence = _Presence(self._params)
        self._voter = None

    @property
    def voter(self) -> "_Voter":
        """Made when it is first needed: all processes come here together."""
        if self._voter is None:
            if self._params is None or self._presence is None:
                raise CompsgdError(
                    "VoteState does not know the model's parameters: hand it "
                    "params=model.parameters(), or use compsgd.comm.wrap(ddp)"
                )
            self._voter = _Voter(self, self._params, self._presence)
            if self._saved is not None:
                self._voter.load_ranges(self._saved)
                self._saved = None
        return self._voter

    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SETTINGS}

    def state_dict(self) -> dict[str, Any]:
        """This rank's: the iteration, the range, and the settings that they belong to."""
        ranges = self._saved if self._voter is None else self._voter.ranges()
        return {"iteration": self.iteration, "ranges": ranges, "settings": self.settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` has saved on this rank.

        Raises:
            CompsgdError: of other settings, or of other parameters.
        """
        settings = self.settings()
        for name in ("num_bits", "binning", "decay_min", "decay_max", "rand_zero", "seed"):
            if state_dict["settings"][name] != settings[name]:
                raise CompsgdError(
                    f"this state_dict has {name}={state_dict['settings'][name]}, and this state "
                    f"{settings[name]}"
                )
        ranges = state_dict["ranges"]
        if self._voter is None:
            self._saved = ranges
        elif ranges is not None:
            self._voter.load_ranges(ranges)
        self.iteration = int(state_dict["iteration"])

    def summary(self) -> str:
        """Bytes that this process has sent a step, beside a float32 ring all-reduce, as a table."""
        steps = self.ledger.steps
        if not steps:
            return "no step yet"
        sent = sum(step.wire.sent_bytes for step in steps) / len(steps)
        numel = sum(parameter.numel() for parameter in self._params or [])
        uncompressed = ring_all_reduce(numel, self.voter.world_size)
        rows = [
            ("steps", f"{len(steps):,}"),
            ("sent bytes a step", f"{sent:,.0f}"),
            ("float32 all-reduce", f"{uncompressed:,}"),
            ("compression", f"{uncompressed / sent:.2f}x" if sent else "-"),
        ]
        width = max(len(value) for _, value in rows)
        return "\n".join(f"{name:<18}  {value:>{width}}" for name, value in rows)

    def __getstate__(self) -> dict[str, Any]:
        """Without the group, the parameters and whatever runs: another process has its own."""
        return self.settings() | {
            "iteration": self.iteration,
            "ledger": self.ledger,
            "_saved": self.state_dict()["ranges"],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.process_group = None
        self._voter = None
        self._params = None
        self._presence = None
        self.__dict__.update(state)


def vote_hook(
    state: VoteState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Replaces a bucket's gradients by the vote of all processes on them.

    1. Each discretises its gradients against its own range, and packs them. 2. They exchange the
    codes. 3. The vote, times `state.scale`, is the gradient of all. A process whose gradients are
    not finite sits out of the bucket; where all do, they get the average of plain DDP, so that a
    GradScaler sees it.

    All of it runs on a thread of its own, bucket after bucket, while backward goes on.
    """
    return state.voter.submit(bucket)


def wrap(ddp: DistributedDataParallel, **settings: Any) -> VoteState:
    """Registers `vote_hook` with a model and returns its state.

    Args:
        ddp: the model.
        settings: as for VoteState.

    Raises:
        CompsgdError: no DistributedDataParallel, one that has a hook, or one that casts gradients
            itself.
    """
    if not isinstance(ddp, DistributedDataParallel):
        raise CompsgdError(
            f"wrap takes a DistributedDataParallel, and got a {type(ddp).__name__}: wrap the model "
            "in torch.nn.parallel.DistributedDataParallel first"
        )
    if getattr(ddp, "mixed_precision", None) is not None:
        raise CompsgdError(
            "this DistributedDataParallel has mixed_precision, which uses the hook for itself; "
            "torch.autocast and GradScaler go together with the vote"
        )
    state = VoteState(ddp.process_group, ddp.module.parameters(), **settings)
    try:
        ddp.register_comm_hook(state, vote_hook)
    except RuntimeError as error:
        raise CompsgdError(f"this DistributedDataParallel takes no hook: {error}") from error
    return state


class _Voter:
    """One process's side of the votes on a model."""

    def __init__(self, state: VoteState, params: Sequence[Tensor], presence: _Presence) -> None:
        self._state = state
        self._presence = presence
        self._params = list(params)
        self._index = {id(parameter): i for i, parameter in enumerate(self._params)}
        voted = [i for i, parameter in enumerate(self._params) if self._is_voted_on(parameter)]
        self._place = {index: place for place, index in enumerate(voted)}
        sizes = [self._params[index].numel() for index in voted]
        self._starts = [sum(sizes[:place]) for place in range(len(sizes) + 1)]
        self._device = self._params[0].device
        self._bounds = empty_range(self._starts[-1], self._device)
        self._collectives = self._connect()
        self._exchange: Any = _BucketExchange(build_exchange(state.exchange, self._collectives))
        self._votes: dict[tuple[int, ...], BucketVote] = {}
        self._used: set[tuple[int, ...]] = set()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="vote_hook", daemon=True)
        self._thread.start()

    @property
    def world_size(self) -> int:
        return self._collectives.world_size

    def ranges(self) -> dict[str, Tensor]:
        maximum, minimum = self._bounds
        return {"max": maximum.cpu().clone(), "min": minimum.cpu().clone()}

    def load_ranges(self, ranges: dict[str, Tensor]) -> None:
        for bound, name in zip(self._bounds, ("max", "min"), strict=True):
            if ranges[name].shape != bound.shape:
                raise CompsgdError(
                    f"this state_dict's range is of {ranges[name].numel()} elements; these "
                    f"parameters have {bound.numel()} to vote on"
                )
            bound.copy_(ranges[name])

    def submit(
        self,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        """In the thread of backward: takes note of what is there, and leaves the rest."""
        state = self._state
        parameters = bucket.parameters()
        unknown = [one for one in parameters if id(one) not in self._index]
        if unknown:
            raise CompsgdError(
                f"a parameter of shape {tuple(unknown[0].shape)} is not among VoteState's params"
            )
        present = [self._presence.has(one) for one in parameters]
        devices: list[Any] = [self._device] if self._device.type == "cuda" else []
        future: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
        self._jobs.put(
            _Job(bucket.buffer(), parameters, bucket.gradients(), present, bucket.is_last(),
                 future, state.iteration - state.start_vote_iter, state.iteration)
        )  # fmt: skip
        if bucket.is_last():
            state.iteration += 1
            self._presence.forget()
        return future

    def _is_voted_on(self, parameter: Tensor) -> bool:
        state = self._state
        is_exempt = state.exempt_1d and parameter.ndim <= 1
        return parameter.numel() >= max(1, state.min_compress_numel) and not is_exempt

    def _connect(self) -> Collectives:
        parent = self._state.process_group or dist.group.WORLD
        if parent is None:
            raise CompsgdError("torch.distributed is not initialised")
        timeout = timedelta(seconds=self._state.timeout_s)
        ranks = dist.get_process_group_ranks(parent)
        group: Any = dist.new_group(ranks, timeout=timeout, use_local_synchronization=True)
        size = dist.get_world_size(parent)
        return Collectives(self._state.ledger, Purpose.GRADIENT, size, group, timeout)

    # In the thread.

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                self._do(job)
            except Exception as error:
                job.future.set_exception(error)  # type: ignore[arg-type]
            else:
                job.future.set_result(job.buffer)

    @torch.no_grad()
    def _do(self, job: _Job) -> None:
        voted: list[int] = []
        averaged: list[int] = []
        for slot, parameter in enumerate(job.parameters):
            is_voted = self._index[id(parameter)] in self._place and job.round_ >= 0
            (voted if is_voted else averaged).append(slot)
        voted.sort(key=lambda slot: self._index[id(job.parameters[slot])])
        for slots in self._neighbours(job, voted):
            self._vote(job, slots)
        self._average(job, averaged)
        if job.is_last:
            self._state.ledger.end_round(range(self.world_size))
            self._votes = {key: vote for key, vote in self._votes.items() if key in self._used}
            self._used = set()

    def _neighbours(self, job: _Job, slots: list[int]) -> list[list[int]]:
        """Slots in model order, cut where parameters are no neighbours."""
        runs: list[list[int]] = []
        last = None
        for slot in slots:
            place = self._place[self._index[id(job.parameters[slot])]]
            if last is None or place != last + 1:
                runs.append([])
            runs[-1].append(slot)
            last = place
        return runs

    def _vote(self, job: _Job, slots: list[int]) -> None:
        places = [self._place[self._index[id(job.parameters[slot])]] for slot in slots]
        first, end = self._starts[places[0]], self._starts[places[-1] + 1]
        vote = self._vote_on(tuple(places), [job.parameters[slot].shape for slot in slots], first)
        gradients = [job.gradients[slot] if job.present[slot] else None for slot in slots]
        means = self._mean_magnitudes(gradients) if self._state.scale == "mean_abs" else None
        maximum, minimum = (bound[first:end] for bound in self._bounds)
        if not vote.cast(gradients, maximum, minimum, job.round_):
            # Nobody votes: what plain DDP would have.
            self._average(job, slots)
            return
        for i, (slot, voted) in enumerate(zip(slots, vote.votes, strict=True)):
            gradient = job.gradients[slot]
            gradient.copy_(voted.view(gradient.shape))
            gradient *= float(self._state.scale) if means is None else _factor(means[i], voted)

    def _vote_on(
        self, places: tuple[int, ...], shapes: Sequence[torch.Size], first: int
    ) -> BucketVote:
        self._used.add(places)
        if places not in self._votes:
            state = self._state
            self._votes[places] = BucketVote(
                shapes, first, self._device, self._exchange, num_bits=state.num_bits,
                binning=state.binning, decay_min=state.decay_min, decay_max=state.decay_max,
                rand_zero=state.rand_zero, seed=state.seed, compile=state.compile,
            )  # fmt: skip
        return self._votes[places]

    def _mean_magnitudes(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """The mean over those who vote of each tensor's mean magnitude, float32: 4 bytes a tensor.

        Who sits out says -1.
        """
        mine = torch.stack(
            [torch.tensor(-1.0) if g is None else g.abs().mean().float().cpu() for g in gradients]
        )
        if not mine.isfinite().all():
            mine.fill_(-1)
        rows = self._exchange.all_gather(mine.view(torch.uint8)[None].to(self._device))
        everyones = rows.cpu().contiguous().view(torch.float32)
        votes = everyones >= 0
        mean: Tensor = (everyones * votes).sum(0) / votes.sum(0).clamp(min=1)
        return mean

    def _average(self, job: _Job, slots: Sequence[int]) -> None:
        """The mean of all processes, as plain DDP takes it."""
        if not slots:
            return
        flat = torch.cat([job.gradients[slot].flatten().float() for slot in slots])
        self._collectives.all_reduce(flat)
        flat /= self.world_size
        parts = flat.split([job.gradients[slot].numel() for slot in slots])
        for slot, part in zip(slots, parts, strict=True):
            job.gradients[slot].copy_(part.view(job.gradients[slot].shape))


def _factor(mean_magnitude: Tensor, voted: Tensor) -> float:
    level = float(voted.abs().mean())
    return float(mean_magnitude) / level if level else 0.0


def _check_scale(scale: float | str) -> float | str:
    if scale == "mean_abs":
        return "mean_abs"
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise CompsgdError(f'scale is {scale!r}; it must be a number or "mean_abs"')
    return float(scale)

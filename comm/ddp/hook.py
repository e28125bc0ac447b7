"""Voted gradients in anyone's DistributedDataParallel: a communication hook and its state.

The signature and the conventions are those of torch.distributed.algorithms.ddp_comm_hooks.
"""

import logging
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm.ddp.bucket_queue import BucketQueue
from compsgd.comm.ddp.outer_optimizer import check_optimizer, warn_of_two_momenta
from compsgd.comm.ddp.trial import Trial
from compsgd.comm.group_vote import GroupVote
from compsgd.comm.membership import PAYS, Membership
from compsgd.comm.parameters import GradientTracker
from compsgd.comm.repeated_backward import RepeatedBackward
from compsgd.comm.traffic.ledger import Ledger
from compsgd.errors import SettingError
from compsgd.settings import HOOK_SETTINGS, MEAN_ABS, VoteSettings, check_known, takes_settings

log = logging.getLogger("compsgd")


@takes_settings(*HOOK_SETTINGS)
class VoteState:
    """Settings and state of `vote_hook`, one for each model.

    What it remembers costs 8 bytes a parameter that is voted on for the range, and 4 each for
    momentum and error feedback.

    Source:
        design, sections 2, 2b and 5.

    Args:
        process_group: over whose processes; None for all. The collectives of the vote run on a
            group of their own made from it in the first backward, so that they meet none of DDP's.
            Where it is not of all processes, torch counts that group on its members alone: a later
            new_group of all processes then needs use_local_synchronization, too.
        params: the model's parameters in its order; `register_vote_hook` fills them in.
        exempt: those of them that are averaged whatever their size, as large embeddings.
        vote_settings: to start from; keyword arguments win.
        {settings}

    Attributes:
        membership: what it has in common with an aggregator.

    Raises:
        SettingError: an argument out of bounds.

    Examples:
        >>> import torch
        >>> from compsgd.comm import VoteState
        >>> model = torch.nn.Linear(4, 2)
        >>> state = VoteState(params=model.parameters(), num_bits=1, scale="mean_abs")
        >>> state.settings.num_bits, state.iteration
        (1, 0)
        >>> # ddp.register_comm_hook(state, compsgd.comm.vote_hook)
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup | None = None,
        params: Iterable[Tensor] | None = None,
        *,
        exempt: Iterable[Tensor] = (),
        vote_settings: VoteSettings | None = None,
        **changes: Any,
    ) -> None:
        settings = VoteSettings.of_client("VoteState", HOOK_SETTINGS, vote_settings, changes)
        if settings.fallback and settings.scale != MEAN_ABS:
            raise SettingError(
                f"fallback needs scale={MEAN_ABS!r}, so that a vote is as large as the gradient "
                f"that it takes the place of; scale is {settings.scale!r}"
            )
        self.membership = Membership(settings, process_group)
        self._trial = Trial() if settings.fallback else None
        self._tracker: GradientTracker | None = None
        self._queue: BucketQueue | None = None
        self._exempt = list(exempt)
        if params is not None:
            self.params = params

    @property
    def settings(self) -> VoteSettings:
        """What it was made with."""
        return self.membership.settings

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """Over whose processes; None for all."""
        return self.membership.process_group

    @property
    def ledger(self) -> Ledger:
        """The bytes of the last 1000 steps, and of all of them together."""
        return self.membership.ledger

    @property
    def iteration(self) -> int:
        """How many backward passes have been synchronised."""
        return self.membership.iteration

    @iteration.setter
    def iteration(self, iteration: int) -> None:
        self.membership.iteration = iteration

    @property
    def params(self) -> list[Tensor] | None:
        """The model's parameters in its order, without those that need no gradient. Set anew, they
        keep the memory if it is of their size."""
        params = self.membership.params
        return None if params is None else params.all

    @params.setter
    def params(self, params: Iterable[Tensor]) -> None:
        known = self.membership.set_params(params, self._exempt)
        self.release()
        self._queue = None
        self._tracker = GradientTracker(known.all)
        self._repeated = RepeatedBackward(known.all, "use no_sync() for all but the last backward")

    @property
    def bytes_per_step(self) -> float:
        """Gradient bytes that this process has sent a step, on average; 0 before the first."""
        return self.membership.bytes_per_step

    @property
    def compression_rate(self) -> float | None:
        """What a float32 ring all-reduce sends, over what was sent; None while nothing was."""
        return self.membership.compression_rate

    def summary(self) -> str:
        """Bytes that this process has sent a step, beside a float32 ring all-reduce, as a table."""
        return self.membership.summary()

    def connect(self) -> GroupVote:
        """Joins the other processes, which compare their settings; `vote_hook` calls it in the
        first backward, on all processes together.

        Raises:
            SettingError: the parameters are not known.
            PeerError: processes disagree, or not all came.
        """
        return self.membership.connect()

    def submit(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        """A future of the bucket's buffer, overwritten by the vote; see `vote_hook`."""
        if self._queue is None:
            vote, params = self.connect(), self.membership.params
            assert params is not None, "connect has checked"
            assert self._tracker is not None, "it comes with the parameters"
            self._queue = BucketQueue(vote, params, self._tracker, self._trial)
        round_ = self.membership.iteration - self.membership.settings.start_vote_iter
        future = self._queue.submit(bucket, round_)
        if bucket.is_last():
            self.membership.iteration += 1
            self._repeated.note_vote()
        # An exception has our words where it is raised in a callback, and else where it is cast.
        return future.then(lambda done: done.value())

    def release(self) -> None:
        """Stops watching the parameters: for a state that is not used after all."""
        if self._tracker is not None:
            self._tracker.remove()
            self._repeated.remove()

    @property
    def pays(self) -> bool | None:
        """With `fallback`, whether gradients are voted on, and no longer averaged; None while that
        is open, and without."""
        return None if self._trial is None else self._trial.pays

    def state_dict(self) -> dict[str, Any]:
        """This rank's: the iteration, the memory, the rank and settings that they belong to, and
        with `fallback` whether the vote pays."""
        decided = {} if self._trial is None else {PAYS: self._trial.pays}
        return self.membership.state_dict() | decided

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` has saved on this rank; nothing changes if it does not fit.

        Raises:
            SettingError: of other settings, of other parameters, of another rank, or of something
                else.
        """
        self.membership.load_state_dict(state_dict)
        if self._trial is not None:
            self._trial.restart(state_dict.get(PAYS))

    def __getstate__(self) -> dict[str, Any]:
        """Without the group, the parameters and whatever runs: another process has its own."""
        log.warning("a pickled VoteState has neither its process group nor its parameters")
        return {"settings": self.settings, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(vote_settings=state["settings"])  # type: ignore[misc]
        self.load_state_dict(state["state"])


def vote_hook(
    state: VoteState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Replaces a bucket's gradients by the vote of all processes on them.

    1. Each discretises its gradients, or their running means, against its own range, and packs
    them. 2. They exchange the
    codes. 3. The vote, times `scale`, is the gradient of all. A process whose gradients in the
    bucket are not all finite sits out of it; where all do, they get the average of plain DDP, so
    that a GradScaler sees it. The same goes for gradients that are averaged.

    All of it runs on a thread of its own, bucket after bucket, while backward goes on.

    Source:
        design, sections 2, 2b and 5.

    Args:
        state: its settings, its memory, and the model's parameters.
        bucket: as DistributedDataParallel hands it over.

    Returns:
        a future of the bucket's buffer, overwritten.

    Raises:
        SettingError: the state does not know the parameters.
        PeerError: processes disagree, or one is gone.

    Examples:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from torch.nn.parallel import DistributedDataParallel
        >>> from compsgd.comm import VoteState, vote_hook
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> ddp = DistributedDataParallel(torch.nn.Linear(3, 1, bias=False))
        >>> ddp.register_comm_hook(VoteState(params=ddp.parameters(), num_bits=3), vote_hook)
        >>> ddp(torch.tensor([[0.5, -0.1, 2.0]])).sum().backward()
        >>> ddp.module.weight.grad.tolist()  # at first each gradient is its own range
        [[4.0, -4.0, 4.0]]
        >>> dist.destroy_process_group()
    """
    return state.submit(bucket)


def register_vote_hook(
    ddp: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    **settings: Any,
) -> VoteState:
    """Registers `vote_hook` with a model; on every rank alike.

    Source:
        design, sections 2, 2b and 5.

    Args:
        ddp: the model, or a module that wraps it, as Fabric's and torch.compile's do.
        optimizer: what will move the parameters, if it is known: a warning says so if both it and
            the vote have momentum, now or in a later step.
        settings: the keyword arguments of VoteState; process_group and params are the model's.

    Returns:
        the state: `ledger`, `summary()`, `state_dict()`.

    Raises:
        SettingError: no DistributedDataParallel, one that has a hook already, or one that casts
            gradients itself; no optimizer; a setting that is none.

    Examples:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from torch.nn.parallel import DistributedDataParallel
        >>> from compsgd.comm import register_vote_hook
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> ddp = DistributedDataParallel(torch.nn.Linear(3, 1))
        >>> state = register_vote_hook(ddp, num_bits=1, scale="mean_abs", exempt_1d=True)
        >>> ddp(torch.ones(2, 3)).sum().backward()
        >>> state.iteration
        1
        >>> dist.destroy_process_group()
    """
    check_known("register_vote_hook", HOOK_SETTINGS, set(settings) - {"vote_settings", "exempt"})
    if optimizer is not None:
        check_optimizer(optimizer)
    ddp = _ddp_in(ddp)
    if getattr(ddp, "mixed_precision", None) is not None:
        raise SettingError(
            "this DistributedDataParallel has mixed_precision, which needs the hook for itself; "
            "use torch.autocast and a GradScaler, which go together with the vote"
        )
    state = VoteState(ddp.process_group, ddp.module.parameters(), **settings)
    try:
        ddp.register_comm_hook(state, vote_hook)
    except RuntimeError as error:
        state.release()
        raise SettingError(f"this DistributedDataParallel takes no hook: {error}") from error
    if optimizer is not None:
        warn_of_two_momenta(state.settings, optimizer)
    return state


def _ddp_in(module: nn.Module) -> DistributedDataParallel:
    """The module itself, or the only one of its kind inside.

    Raises:
        SettingError: there is none, or more than one.
    """
    is_module = isinstance(module, nn.Module)
    inside = (
        [one for one in module.modules() if isinstance(one, DistributedDataParallel)]
        if is_module
        else []
    )
    if not inside:
        raise SettingError(
            f"register_vote_hook takes a DistributedDataParallel, and got a {type(module).__name__}"
            " without one inside: wrap the model in torch.nn.parallel.DistributedDataParallel first"
        )
    if len(inside) > 1:
        raise SettingError(
            f"there are {len(inside)} DistributedDataParallel inside this {type(module).__name__}: "
            "register the hook with each"
        )
    return inside[0]


def wrap(ddp: nn.Module, **settings: Any) -> VoteState:
    """The older name of `register_vote_hook`, kept for one version.

    Source:
        design, sections 2, 2b and 5.

    Args:
        ddp: the model.
        settings: the keyword arguments of VoteState; process_group and params are the model's.

    Returns:
        the state.

    Raises:
        SettingError: a model that takes no hook, or a setting that is none.

    Examples:
        >>> import compsgd.comm
        >>> compsgd.comm.wrap.__doc__.splitlines()[0]
        'The older name of `register_vote_hook`, kept for one version.'
    """
    return register_vote_hook(ddp, **settings)

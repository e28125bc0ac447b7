"""Voted gradients in anyone's DistributedDataParallel: a communication hook.

The signature and the conventions are those of torch.distributed.algorithms.ddp_comm_hooks.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from compsgd.comm.vote_settings import SETTING_NAMES
from compsgd.comm.vote_state import VoteState
from compsgd.errors import CompsgdError


def vote_hook(
    state: VoteState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Replaces a bucket's gradients by the vote of all processes on them.

    1. Each discretises its gradients against its own range, and packs them. 2. They exchange the
    codes. 3. The vote, times `scale`, is the gradient of all. A process whose gradients in the
    bucket are not all finite sits out of it; where all do, they get the average of plain DDP, so
    that a GradScaler sees it. The same goes for gradients that are averaged.

    All of it runs on a thread of its own, bucket after bucket, while backward goes on.

    Args:
        state: its settings, its ranges, and the model's parameters.
        bucket: as DistributedDataParallel hands it over.

    Returns:
        a future of the bucket's buffer, overwritten.

    Raises:
        CompsgdError: the state does not know the parameters.
    """
    future = state.voter.submit(bucket, state.iteration)
    if bucket.is_last():
        state.iteration += 1
    return future


def wrap(ddp: DistributedDataParallel, **settings: Any) -> VoteState:
    """Registers `vote_hook` with a model; on every rank alike.

    Args:
        ddp: the model.
        settings: as for VoteState, but for process_group and params, which are the model's.

    Returns:
        the state: `ledger`, `summary()`, `state_dict()`.

    Raises:
        CompsgdError: no DistributedDataParallel, one that has a hook already, or one that casts
            gradients itself; a setting that is none.
    """
    unknown = sorted(set(settings) - set(SETTING_NAMES))
    if unknown:
        raise CompsgdError(
            f"wrap has no setting {', '.join(unknown)}; there are {', '.join(SETTING_NAMES)}"
        )
    if not isinstance(ddp, DistributedDataParallel):
        raise CompsgdError(
            f"wrap takes a DistributedDataParallel, and got a {type(ddp).__name__}: wrap the model "
            "in torch.nn.parallel.DistributedDataParallel first"
        )
    if getattr(ddp, "mixed_precision", None) is not None:
        raise CompsgdError(
            "this DistributedDataParallel has mixed_precision, which needs the hook for itself; "
            "use torch.autocast and a GradScaler, which go together with the vote"
        )
    state = VoteState(ddp.process_group, ddp.module.parameters(), **settings)
    try:
        ddp.register_comm_hook(state, vote_hook)
    except RuntimeError as error:
        state.release()
        raise CompsgdError(f"this DistributedDataParallel takes no hook: {error}") from error
    return state

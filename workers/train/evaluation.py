"""Evaluation on a split, shared out among the processes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compsgd.comm.group.collectives import Collectives
from compsgd.workers.data.items import seed_everything
from compsgd.workers.data.splits import Split
from compsgd.workers.train.scores import BatchScore, Score, batch_loss, sample_weighted

_BATCH_SIZE = 250


class EvaluationAbandonedError(Exception):
    """Some process was told to stop; raised on all of them."""


def evaluate(
    model: nn.Module,
    split: Split,
    device: torch.device,
    peers: Collectives,
    wants_stop: Callable[[], bool],
) -> Score:
    """Loss and accuracy in eval mode; batch i is scored by process i mod W.

    The batches are the same for any W, and so is every bit of the result.

    Args:
        wants_stop: asked before each batch whether to abandon it.

    Raises:
        EvaluationAbandonedError: on every process, if any of them has.
    """
    batches = split.evaluated().split(_BATCH_SIZE)
    num_slots = -(-len(batches) // peers.world_size)
    # One row more says whether this process came to the end.
    mine = torch.zeros(num_slots + 1, len(BatchScore._fields), dtype=torch.float64)
    model.eval()
    is_complete = True
    with torch.no_grad():
        for slot, index in enumerate(batches[peers.rank :: peers.world_size]):
            if wants_stop():
                is_complete = False
                break
            # A user's data may draw random numbers: the same ones for any W.
            seed_everything(int(index[0]))
            inputs, labels = split.batch(index, device)
            mine[slot] = torch.tensor(batch_loss(model(inputs), labels)[1], dtype=torch.float64)
    model.train()
    mine[-1] = float(is_complete)
    everyones = peers.all_gather(mine)
    if not everyones[:, -1].all():
        raise EvaluationAbandonedError
    return sample_weighted(in_worker_order(everyones[:, :-1])[: len(batches)])


def in_worker_order(scores: Tensor) -> list[BatchScore]:
    """Scores (world_size, slots, 3) as a list in which item i came from process i mod W."""
    return [BatchScore(*row) for row in scores.transpose(0, 1).reshape(-1, 3).tolist()]

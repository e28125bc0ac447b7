"""Evaluation on a whole split, shared out among the processes."""

import torch
from torch import Tensor, nn

from compsgd.comm.collectives import Collectives
from compsgd.workers.data import Split
from compsgd.workers.scores import BatchScore, Score, batch_loss, sample_weighted

_BATCH_SIZE = 250


def evaluate(model: nn.Module, split: Split, device: torch.device, peers: Collectives) -> Score:
    """Loss and accuracy in eval mode; batch i is scored by process i mod W.

    The batches are the same for any W, and so is every bit of the result.
    """
    starts = range(0, len(split), _BATCH_SIZE)
    num_slots = -(-len(starts) // peers.world_size)
    mine = torch.zeros(num_slots, len(BatchScore._fields), dtype=torch.float64)
    model.eval()
    with torch.no_grad():
        for slot, start in enumerate(starts[peers.rank :: peers.world_size]):
            index = torch.arange(start, min(start + _BATCH_SIZE, len(split)))
            images, labels = split.batch(index, device)
            mine[slot] = torch.tensor(batch_loss(model(images), labels)[1], dtype=torch.float64)
    model.train()
    return sample_weighted(in_worker_order(peers.all_gather(mine))[: len(starts)])


def in_worker_order(scores: Tensor) -> list[BatchScore]:
    """Scores (world_size, slots, 3) as a list in which item i came from process i mod W."""
    return [BatchScore(*row) for row in scores.transpose(0, 1).reshape(-1, 3).tolist()]

"""Buffers of a model, as batch norm's running statistics: worker 0's are the model's, as under
DistributedDataParallel."""

import torch
from torch import Tensor, nn

from compsgd.comm.group.collectives import Collectives


class WorkerZeroBuffers:
    """Every worker's forward pass starts from the same buffers; only what worker 0's does to them
    stays."""

    def __init__(self, model: nn.Module, peers: Collectives) -> None:
        self._buffers = list(model.buffers())
        self._peers = peers
        self._before: list[Tensor] = []
        self._after: list[Tensor] = []

    def begin_round(self) -> None:
        self.synchronise()
        self._before = [buffer.clone() for buffer in self._buffers]
        self._after = self._before

    def end_forward(self, worker: int) -> None:
        if worker == 0:
            self._after = [buffer.clone() for buffer in self._buffers]
        self._restore(self._before)

    def end_round(self) -> None:
        self._restore(self._after)

    def synchronise(self) -> None:
        """Brings worker 0's buffers to every process, in one flat message."""
        if not self._buffers or self._peers.world_size == 1:
            return
        flat = torch.cat([buffer.reshape(-1).view(torch.uint8) for buffer in self._buffers])
        parts = self._peers.broadcast(flat).split([buffer.nbytes for buffer in self._buffers])
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer.copy_(part.clone().view(buffer.dtype).view(buffer.shape))

    def _restore(self, saved: list[Tensor]) -> None:
        for buffer, value in zip(self._buffers, saved, strict=True):
            buffer.copy_(value)

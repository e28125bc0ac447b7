"""The few collectives that everything here is made of, each entered in the ledger.

All are even: every process hands over and receives equally many bytes. Gloo has no others, and
none for the types we send, so tensors travel as bytes.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from compsgd.comm.ledger import Ledger, Purpose, Transfer

# torch 2.14 renamed it and warns of the old name.
_all_gather_flat = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Collectives:
    """Collectives over one process group for one purpose; without a group, a process alone."""

    def __init__(
        self,
        ledger: Ledger,
        purpose: Purpose,
        num_workers: int,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """
        Args:
            ledger: where every transfer is entered.
            purpose: what the transfers are for.
            num_workers: N, for what separate workers would have sent.
            group: None for a process that is alone.
        """
        self.ledger = ledger
        self.purpose = purpose
        self.num_workers = num_workers
        self._group = group
        self.world_size = group.size() if group is not None else 1
        self.rank = group.rank() if group is not None else 0

    def all_gather(self, tensor: Tensor, logical_bytes: int = 0) -> Tensor:
        """Brings every process's tensor to every process.

        Args:
            tensor: any type and shape, the same on all processes.
            logical_bytes: what each of N separate workers would send for the same.

        Returns:
            the tensors stacked by rank, shape (world_size, *tensor.shape).
        """
        sent_bytes = (self.world_size - 1) * tensor.nbytes
        self._record("all_gather", tensor.nbytes, sent_bytes, logical_bytes)
        if self._group is None:
            return tensor.unsqueeze(0)
        mine = self._to_wire(tensor)
        everyones = mine.new_empty(self.world_size * mine.numel())
        _all_gather_flat(everyones, mine, group=self._group)
        return _from_wire(everyones, tensor, (self.world_size, *tensor.shape))

    def all_to_all(self, chunks: Tensor, logical_bytes: int = 0) -> Tensor:
        """Sends chunk i to rank i.

        Args:
            chunks: shape (world_size, ...), the same on all processes.
            logical_bytes: what each of N separate workers would send for the same.

        Returns:
            the same shape; chunk i is what rank i had for this rank.
        """
        sent_bytes = chunks.nbytes - chunks[0].nbytes
        self._record("all_to_all", chunks.nbytes, sent_bytes, logical_bytes)
        if self._group is None:
            return chunks
        mine = self._to_wire(chunks)
        received = torch.empty_like(mine)
        dist.all_to_all_single(received, mine, group=self._group)
        return _from_wire(received, chunks, chunks.shape)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor on every process. Entered as sent by rank 0, whichever way it went."""
        sent_bytes = (self.world_size - 1) * tensor.nbytes if self.rank == 0 else 0
        self._record("broadcast", tensor.nbytes, sent_bytes, 0)
        if self._group is None:
            return tensor
        wire = self._to_wire(tensor)
        if wire.data_ptr() == tensor.data_ptr():
            wire = wire.clone()
        dist.broadcast(wire, group_src=0, group=self._group)
        return _from_wire(wire, tensor, tensor.shape)

    def _record(
        self, collective: str, handed_bytes: int, wire_bytes: int, logical_bytes: int
    ) -> None:
        transfer = Transfer(collective, handed_bytes, wire_bytes, logical_bytes)
        self.ledger.record(self.purpose, transfer)

    def _to_wire(self, tensor: Tensor) -> Tensor:
        """As flat bytes where the backend can read them."""
        device = "cuda" if dist.get_backend(self._group) == dist.Backend.NCCL else "cpu"
        return tensor.contiguous().flatten().view(torch.uint8).to(device)


def _from_wire(wire: Tensor, like: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    return wire.to(like.device).view(like.dtype).view(shape)

"""The few collectives that everything here is made of, each entered in the ledger.

All are even: every process hands over and receives equally many bytes. Gloo has no others, and
none for the types we send, so tensors travel as bytes.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compsgd.comm.traffic.ledger import NOTHING, Flow, Ledger, Logical, Purpose
from compsgd.errors import DamagedDataError, PeerError

# torch 2.14 renamed it and warns of the old name.
_all_gather_flat = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class CollectiveError(PeerError):
    """A collective did not come to its end: a process is gone, hangs, or is too slow."""


class Collectives:
    """Collectives over one process group for one purpose; without a group, a process alone.

    Every collective is entered in the ledger: what this process sends and receives, and what
    separate workers would send for the same, if that is told.

    Attributes:
        ledger: where every transfer is entered.
        purpose: what the transfers are for.
        num_workers: N, for what separate workers would have sent.
        world_size: W, the processes of the group.
        rank: this process among them.

    Source:
        design, section 3, "Exchanges".

    Examples:
        >>> import torch
        >>> from compsgd.comm import Collectives, Ledger, Purpose
        >>> alone = Collectives(Ledger(), Purpose.GRADIENT, num_workers=2)
        >>> alone.all_gather(torch.tensor([1.0, 2.0])).tolist()
        [[1.0, 2.0]]
    """

    def __init__(
        self,
        ledger: Ledger,
        purpose: Purpose,
        num_workers: int,
        group: dist.ProcessGroup | None = None,
        timeout: timedelta | None = None,
        members: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            ledger: where every transfer is entered.
            purpose: what the transfers are for.
            num_workers: N, for what separate workers would have sent.
            group: None for a process that is alone.
            timeout: how long a collective may take from its beginning to its end; None for as long
                as the group lets it. Over NCCL the group's own timeout bounds it.
            members: ranks of the group, of which this process is one, between which gathers and
                scatters go; None for all.
        """
        self.ledger = ledger
        self.purpose = purpose
        self.num_workers = num_workers
        self._group = group
        self._timeout = timeout
        self._backends = {} if group is None else _backends(group)
        size, rank = (1, 0) if group is None else (group.size(), group.rank())
        self._members = range(size) if members is None else members
        self.world_size, self.rank = len(self._members), self._members.index(rank)

    @property
    def global_ranks(self) -> list[int]:
        """Of all processes of the group, by rank in it."""
        return [0] if self._group is None else dist.get_process_group_ranks(self._group)

    def among(self, members: Sequence[int], num_workers: int) -> "Collectives":
        """Between some processes of the group, for gathers and scatters: any two of them in only
        one such selection at a time, as messages arrive in the order in which they are started.

        Args:
            members: their ranks, in the order that they have here.
            num_workers: as above.
        """
        return Collectives(
            self.ledger, self.purpose, num_workers, self._group, self._timeout, members
        )

    def of_purpose(self, purpose: Purpose) -> "Collectives":
        """Over the same group, for another purpose."""
        return Collectives(
            self.ledger, purpose, self.num_workers, self._group, self._timeout, self._members
        )

    def all_gather(self, tensor: Tensor, logical: Logical | None = None) -> Tensor:
        """Brings every process's tensor to every process.

        1. Each sends its tensor to each other, all at once. Sends (W-1) tensors.

        Args:
            tensor: any type and shape, the same on all processes.
            logical: what separate workers would send for the same, for the ledger.

        Returns:
            the tensors stacked by rank, shape (world_size, *tensor.shape).

        Raises:
            CollectiveError: a process is gone, or too slow.
        """
        return self.start_all_gather(tensor, logical)()

    def start_all_gather(
        self, tensor: Tensor, logical: Logical | None = None
    ) -> Callable[[], Tensor]:
        """The same on its way: what is returned waits for its end. Until then `tensor` stays as it
        is."""
        wire = Flow.even((self.world_size - 1) * tensor.nbytes)
        self.ledger.record(self.purpose, "all_gather", tensor.nbytes, wire, logical)
        if self._group is None:
            return lambda: tensor.unsqueeze(0)
        mine = self._to_wire(tensor)
        everyones = mine.new_empty(self.world_size, mine.numel())
        start = self._start_gather if self._goes_by_nccl else self._start_direct_gather
        finish = self._start("all_gather", lambda: start(everyones, mine))

        def arrival() -> Tensor:
            finish()
            return _from_wire(everyones, tensor, (self.world_size, *tensor.shape))

        return arrival

    def all_to_all(self, chunks: Tensor, logical: Logical | None = None) -> Tensor:
        """Sends chunk i to rank i.

        1. Each sends a chunk to each other. Sends all chunks but its own.

        Args:
            chunks: shape (world_size, ...), the same on all processes.
            logical: what separate workers would send for the same, for the ledger.

        Returns:
            the same shape; chunk i is what rank i had for this rank.

        Raises:
            CollectiveError: a process is gone, or too slow.
        """
        return self.start_all_to_all(chunks, logical)()

    def start_all_to_all(
        self, chunks: Tensor, logical: Logical | None = None
    ) -> Callable[[], Tensor]:
        """The same on its way: what is returned waits for its end. Until then `chunks` stay as they
        are."""
        wire = Flow.even(chunks.nbytes - chunks[0].nbytes)
        self.ledger.record(self.purpose, "all_to_all", chunks.nbytes, wire, logical)
        if self._group is None:
            return lambda: chunks
        mine = self._to_wire(chunks)
        mine = mine.view(self.world_size, mine.numel() // self.world_size)
        received = torch.empty_like(mine)
        start = self._start_scatter if self._goes_by_nccl else self._start_direct_scatter
        finish = self._start("all_to_all", lambda: start(received, mine))

        def arrival() -> Tensor:
            finish()
            return _from_wire(received, chunks, chunks.shape)

        return arrival

    def start_messages(
        self,
        name: str,
        messages: Sequence[Tensor],
        most_bytes: int,
        length_of: Callable[[Tensor], int],
        logical: Logical | None = None,
    ) -> Callable[[], list[Tensor]]:
        """Sends message i to rank i, each of its own length, over gloo. Entered in the ledger when
        all are there.

        Args:
            name: of the collective that this takes the place of.
            messages: uint8 on the CPU, flat; this process's to itself does not matter.
            most_bytes: that any of them may have, on all processes.
            length_of: of the beginning of a message, how many bytes it says that it has.
            logical: what separate workers would send for the same, for the ledger.

        Returns:
            what waits for the message from each rank; nothing from this one.

        Raises:
            CollectiveError: a process is gone, or too slow.
            DamagedDataError: a message says of itself what cannot be.
        """
        assert self._group is not None, "a process alone sends no messages"
        received = torch.zeros(self.world_size, most_bytes, dtype=torch.uint8)
        finish = self._start(name, lambda: self._start_messages(received, messages))

        def arrival() -> list[Tensor]:
            finish()
            lengths = [0 if rank == self.rank else length_of(row)
                       for rank, row in enumerate(received)]  # fmt: skip
            for rank, length in enumerate(lengths):
                if length > most_bytes:
                    raise DamagedDataError(f"rank {rank} sends a message of {length:,} bytes")
            sent = sum(one.numel() for rank, one in enumerate(messages) if rank != self.rank)
            self.ledger.record(self.purpose, name, sent, Flow(sent, sum(lengths)), logical)
            return [row[:length] for row, length in zip(received, lengths, strict=True)]

        return arrival

    def all_reduce(self, tensor: Tensor) -> None:
        """Adds every process's tensor up, in place. Entered as a ring sends it, which is also what
        separate workers would send.

        Raises:
            CollectiveError: a process is gone, or too slow.
        """
        self.start_all_reduce(tensor)()

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], None]:
        """The same on its way: what is returned waits for its end."""
        chunk_bytes = -(-tensor.numel() // self.world_size) * tensor.element_size()
        sent = Flow.even(2 * (self.world_size - 1) * chunk_bytes)
        self.ledger.record(self.purpose, "all_reduce", tensor.nbytes, sent, sent)
        if self._group is None:
            return lambda: None
        return self._start(
            "all_reduce", lambda: [dist.all_reduce(tensor, group=self._group, async_op=True)]
        )

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor on every process. Entered as sent by rank 0, whichever way it went.

        Raises:
            CollectiveError: a process is gone, or too slow.
        """
        others = (self.world_size - 1) * tensor.nbytes
        wire = Flow(others, 0) if self.rank == 0 else Flow(0, tensor.nbytes)
        self.ledger.record(self.purpose, "broadcast", tensor.nbytes, wire)
        if self._group is None:
            return tensor
        sent = self._to_wire(tensor).clone()
        self._start(
            "broadcast",
            lambda: [dist.broadcast(sent, group_src=0, group=self._group, async_op=True)],
        )()
        return _from_wire(sent, tensor, tensor.shape)

    def record_unsent(self, collective: str, logical: Logical) -> None:
        """Enters a collective that separate workers would need and this process does not."""
        self.ledger.record(self.purpose, collective, 0, NOTHING, logical)

    def _start_gather(self, everyones: Tensor, mine: Tensor) -> list[Any]:
        return [_all_gather_flat(everyones.view(-1), mine, group=self._group, async_op=True)]

    def _start_scatter(self, received: Tensor, mine: Tensor) -> list[Any]:
        return [dist.all_to_all_single(received, mine, group=self._group, async_op=True)]

    def _start_direct_gather(self, everyones: Tensor, mine: Tensor) -> list[Any]:
        """From each to each, all at once: gloo's own goes round a ring in as many steps as there
        are others, and copies all once more."""
        everyones[self.rank] = mine
        return self._start_messages(everyones, [mine] * self.world_size)

    def _start_direct_scatter(self, received: Tensor, mine: Tensor) -> list[Any]:
        """The same, of another message to each: gloo's own does one collective after the other."""
        received[self.rank] = mine[self.rank]
        return self._start_messages(received, list(mine))

    def _start_messages(self, received: Tensor, sent: Sequence[Tensor]) -> list[Any]:
        """A message to and from each of the others. Those between two processes arrive in the order
        in which they were started."""
        others = [(place, rank) for place, rank in enumerate(self._members) if place != self.rank]
        group = self._group
        if self.is_nccl:
            # One by one they would wait for each other.
            receiving = [
                dist.P2POp(dist.irecv, received[place], group=group, group_peer=rank)
                for place, rank in others
            ]
            sending = [
                dist.P2POp(dist.isend, sent[place], group=group, group_peer=rank)
                for place, rank in others
            ]
            return dist.batch_isend_irecv(receiving + sending)
        return [
            *(dist.irecv(received[place], group_src=rank, group=group) for place, rank in others),
            *(dist.isend(sent[place], group_dst=rank, group=group) for place, rank in others),
        ]

    def _start(self, name: str, start: Callable[[], list[Any]]) -> Callable[[], None]:
        """Starts a collective: what is returned waits for its end.

        Raises:
            CollectiveError: it failed, then or later, or took longer than the timeout.
        """
        with self._named(name):
            works = start()

        def finish() -> None:
            with self._named(name):
                for work in works:
                    if self._timeout is None or self.is_nccl:
                        work.wait()
                    else:
                        # The group's own timeout bounds each wait inside the collective, not the
                        # whole.
                        work.wait(self._timeout)

        return finish

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Says which collective it is that fails."""
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CollectiveError(f"{name} of {self.purpose.value}: {reason}") from error

    @property
    def is_nccl(self) -> bool:
        """Whether NCCL carries anything."""
        return dist.Backend.NCCL in self._backends.values()

    @property
    def _goes_by_nccl(self) -> bool:
        """Whether NCCL has it as a whole: between all, not between some."""
        return self.is_nccl and self._group is not None and self.world_size == self._group.size()

    def _to_wire(self, tensor: Tensor) -> Tensor:
        """As flat bytes where the backend can read them."""
        if self._backends.get(tensor.device.type) == dist.Backend.NCCL:
            device = tensor.device.type
        else:
            device = "cpu" if "cpu" in self._backends else next(iter(self._backends))
        return tensor.contiguous().flatten().view(torch.uint8).to(device)


def _backends(group: dist.ProcessGroup) -> dict[str, str]:
    """By type of device."""
    config: str = dist.get_backend_config(group)
    return dict(pair.split(":") for pair in config.split(","))


def _from_wire(wire: Tensor, like: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    return wire.to(like.device).view(like.dtype).view(shape)

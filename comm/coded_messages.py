"""Packed codes to other processes through an entropy coder.

A message says in its first word how many bytes it has: whoever receives it has room for the
longest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compsgd.codec.entropy import EntropyCoder, new_buffer
from compsgd.codec.wire import WireFormat
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.traffic.ledger import Logical
from compsgd.errors import DamagedDataError
from compsgd.layout import shard_span
from compsgd.voting.ballot import naming
from compsgd.voting.exchange import Arrival

_WORD_BYTES = 4


class CodedMessages:
    """Brings rows to other processes as `Collectives` do, each through an entropy coder, behind its
    header, which stays as it is.

    Rows are uint8, of one size on all processes; k hosted workers have k rows.
    """

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives

    def gather(self, rows: Tensor, num_shards: int, logical: Logical) -> Arrival:
        """Brings every process's rows to all.

        Args:
            rows: shape (k, num_bytes), of a shard each.
            num_shards: into how many the vector is cut; process i has shard i, or the only one.
            logical: the format of the vector, and what separate workers would send of it.

        Returns:
            what waits for shape (W, k, num_bytes), by rank.
        """
        row_coder = _RowCoder(logical.format)
        sizes = _shard_sizes(logical.format, num_shards)
        world_size, rank = self._collectives.world_size, self._collectives.rank
        by_rank = sizes if num_shards > 1 else sizes * world_size
        message = row_coder.encode(rows, by_rank[rank])
        return self._send("all_gather", [message] * world_size, rows, row_coder, by_rank, logical)

    def scatter(self, rows: Tensor, logical: Logical) -> Arrival:
        """Brings shard i to rank i.

        Args:
            rows: shape (W, k, num_bytes), by shard.
            logical: as above.

        Returns:
            what waits for the same shape: this process's shard, by rank.
        """
        row_coder, world_size = _RowCoder(logical.format), len(rows)
        sizes = _shard_sizes(logical.format, world_size)
        rank = self._collectives.rank
        nothing, own, mine = rows.new_empty(0), rows[rank], [sizes[rank]] * world_size
        messages = [
            nothing if shard == rank else row_coder.encode(rows[shard], numel)
            for shard, numel in enumerate(sizes)
        ]
        return self._send("all_to_all", messages, own, row_coder, mine, logical)

    def _send(
        self,
        name: str,
        messages: Sequence[Tensor],
        own: Tensor,
        row_coder: "_RowCoder",
        sizes: Sequence[int],
        logical: Logical,
    ) -> Arrival:
        """
        Args:
            messages: by rank.
            own: the rows that stay here.
            sizes: elements of what comes from each rank.
        """
        most_bytes = row_coder.most_bytes(own)
        wait = self._collectives.start_messages(name, messages, most_bytes, _length, logical)

        def arrival() -> Tensor:
            rows = torch.empty((len(sizes), *own.shape), dtype=torch.uint8)
            for rank, (message, numel) in enumerate(zip(wait(), sizes, strict=True)):
                if rank == self._collectives.rank:
                    rows[rank] = own
                    continue
                with naming(f"what rank {rank} sends"):
                    row_coder.decode(rows[rank], message, numel)
            return rows.to(own.device)

        return arrival


class _RowCoder:
    """Rows of one format to one message, and back."""

    def __init__(self, format: WireFormat) -> None:
        assert format.alphabet is not None, "levels"
        self._coder = EntropyCoder(format.alphabet)
        self._header_bytes = format.header_bytes

    def most_bytes(self, rows: Tensor) -> int:
        """That a message of such rows may have."""
        row_bytes = rows.shape[1]
        return _WORD_BYTES + len(rows) * (row_bytes + self._coder.extra_bytes(row_bytes))

    def encode(self, rows: Tensor, numel: int) -> Tensor:
        """Args: rows: shape (k, num_bytes), of so many elements each."""
        buffer, end = new_buffer(self.most_bytes(rows)), _WORD_BYTES
        for row in rows.cpu():
            start = end + self._header_bytes
            buffer[end:start] = row[: self._header_bytes]
            end = start + self._coder.encode(buffer[start:], row[self._header_bytes :], numel)
        length = torch.frombuffer(bytearray(end.to_bytes(_WORD_BYTES, "little")), dtype=torch.uint8)
        buffer[:_WORD_BYTES] = length
        return buffer[:end]

    def decode(self, rows: Tensor, message: Tensor, numel: int) -> None:
        """
        Args:
            rows: shape (k, num_bytes), written.
            message: of `encode`.
            numel: elements of each row.

        Raises:
            DamagedDataError: it is none.
        """
        end = _WORD_BYTES
        for row in rows:
            start = end + self._header_bytes
            if start > message.numel():
                raise DamagedDataError("a coded message ends in a header")
            row[: self._header_bytes] = message[end:start]
            end = start + self._coder.decode(row[self._header_bytes :], message[start:], numel)
        if end != message.numel():
            raise DamagedDataError(f"{message.numel() - end} bytes follow coded levels")


def _shard_sizes(format: WireFormat, num_shards: int) -> list[int]:
    return [shard_span(format.numel, num_shards, shard).numel for shard in range(num_shards)]


def _length(message: Tensor) -> int:
    """The bytes of a message, as its first word says."""
    return int.from_bytes(message[:_WORD_BYTES].numpy().tobytes(), "little")

"""The ledger against the kernel (`--verify_bytes`)."""

from typing import Any

from compsgd.comm.group.messages import gather_messages
from compsgd.comm.group.process_group import Network
from compsgd.comm.traffic.kernel_counters import count_bytes
from compsgd.comm.traffic.ledger import Purpose
from compsgd.kinds import COUNT, Fields, Kind, ListOf

# By the ledger, and by the kernel.
_PAIR = ListOf(COUNT, 2)


def byte_check_format(num_epochs: int) -> Kind:
    """Of what `ByteCheck.state` holds after so many epochs."""
    of_epochs = ListOf(COUNT, num_epochs)
    return Fields(
        {
            "ledger_bytes": of_epochs,
            "kernel_bytes": of_epochs,
            "since_epoch": _PAIR,
            "of_others": _PAIR,
        }
    )


class ByteCheck:
    """Reads both counts of this process's gradient traffic, epoch by epoch."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._before = self._read()
        self._of_others = [0, 0]
        self.ledger_bytes: list[int] = []
        self.kernel_bytes: list[int] = []

    def end_epoch(self) -> None:
        ledger_bytes, kernel_bytes = self._since_epoch()
        self.ledger_bytes.append(ledger_bytes)
        self.kernel_bytes.append(kernel_bytes)
        self._before = self._read()

    def totals(self) -> dict[str, Any]:
        """Over all epochs and all processes, for result.json."""
        ledger_bytes, kernel_bytes = self._over_all([0, 0])
        return {
            "wire_bytes_sent": ledger_bytes,
            "kernel_bytes_sent": kernel_bytes,
            "kernel_to_ledger": kernel_bytes / ledger_bytes,
        }

    def state(self) -> dict[str, Any]:
        """For a checkpoint: this process's counts, and what all others have sent."""
        mine = self._since_epoch()
        everyones = self._over_all(mine)
        own = [sum(self.ledger_bytes) + mine[0], sum(self.kernel_bytes) + mine[1]]
        return {
            "ledger_bytes": self.ledger_bytes,
            "kernel_bytes": self.kernel_bytes,
            "since_epoch": mine,
            "of_others": [total - part for total, part in zip(everyones, own, strict=True)],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Rank 0 takes over what all have sent before, in whatever number they were."""
        if self._network.bookkeeping.rank != 0:
            return
        self.ledger_bytes, self.kernel_bytes = state["ledger_bytes"], state["kernel_bytes"]
        self._of_others = state["of_others"]
        earlier = state["since_epoch"]
        self._before = [now - sent for now, sent in zip(self._read(), earlier, strict=True)]

    def _since_epoch(self) -> list[int]:
        return [now - then for now, then in zip(self._read(), self._before, strict=True)]

    def _over_all(self, since_epoch: list[int]) -> list[int]:
        """Sent bytes of all processes, the epoch under way as given."""
        sums = [sum(self.ledger_bytes), sum(self.kernel_bytes)]
        mine = [sum(parts) for parts in zip(sums, since_epoch, self._of_others, strict=True)]
        everyones = gather_messages(self._network.bookkeeping, mine, _PAIR)
        return [sum(column) for column in zip(*everyones, strict=True)]

    def _read(self) -> list[int]:
        """Sent bytes by the ledger and by the kernel."""
        return [
            self._network.ledger.wire[Purpose.GRADIENT].sent_bytes,
            count_bytes(self._network.gradient_sockets).sent_bytes,
        ]

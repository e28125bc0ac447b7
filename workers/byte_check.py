"""The ledger against the kernel (`--verify_bytes`)."""

from typing import Any

from compsgd.comm.kernel_counters import count_bytes
from compsgd.comm.ledger import Purpose
from compsgd.comm.messages import gather_messages
from compsgd.comm.process_group import Network


class ByteCheck:
    """Reads both counts of this process's gradient traffic, epoch by epoch."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._before = self._read()
        self.ledger_bytes: list[int] = []
        self.kernel_bytes: list[int] = []

    def end_epoch(self) -> None:
        now = self._read()
        ledger_bytes, kernel_bytes = (a - b for a, b in zip(now, self._before, strict=True))
        self.ledger_bytes.append(ledger_bytes)
        self.kernel_bytes.append(kernel_bytes)
        self._before = now

    def totals(self) -> dict[str, Any]:
        """Over all epochs and all processes, for result.json."""
        sums = [sum(self.ledger_bytes), sum(self.kernel_bytes)]
        everyones = gather_messages(self._network.bookkeeping, sums)
        ledger_bytes, kernel_bytes = (sum(column) for column in zip(*everyones, strict=True))
        return {
            "wire_bytes_sent": ledger_bytes,
            "kernel_bytes_sent": kernel_bytes,
            "kernel_to_ledger": kernel_bytes / ledger_bytes,
        }

    def _read(self) -> tuple[int, int]:
        """Sent bytes by the ledger and by the kernel."""
        return (
            self._network.ledger.wire[Purpose.GRADIENT].sent_bytes,
            count_bytes(self._network.gradient_sockets).sent_bytes,
        )

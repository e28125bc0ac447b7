"""The record of bytes that each step put on the wire.

Two views of every collective: what one of N separate workers would send (logical), and what this
process did send (wire). Where every process hosts one worker they agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum


class Purpose(Enum):
    """What a collective was for. Only gradient traffic counts as the cost of a step."""

    GRADIENT = "gradient"
    EVALUATION = "evaluation"
    BOOKKEEPING = "bookkeeping"


@dataclass(frozen=True)
class Transfer:
    """One collective, or several of a kind.

    Attributes:
        collective: its name in torch.distributed.
        handed_bytes: what this process handed to it.
        wire_bytes: what this process sent to others; as much came back.
        logical_bytes: what each of N separate workers would send to others.
    """

    collective: str
    handed_bytes: int
    wire_bytes: int
    logical_bytes: int


@dataclass(frozen=True)
class StepTraffic:
    """The gradient traffic of one round, and which workers took part in it."""

    participants: tuple[int, ...]
    transfers: tuple[Transfer, ...]

    @property
    def wire_bytes(self) -> int:
        return sum(transfer.wire_bytes for transfer in self.transfers)

    @property
    def logical_bytes(self) -> int:
        return sum(transfer.logical_bytes for transfer in self.transfers)


@dataclass
class Ledger:
    """Bytes by step for gradients, as running totals for every purpose.

    Attributes:
        steps: the gradient traffic of every finished round.
        wire_bytes: what this process has sent so far, by purpose.
    """

    steps: list[StepTraffic] = field(default_factory=list)
    wire_bytes: dict[Purpose, int] = field(default_factory=lambda: dict.fromkeys(Purpose, 0))
    _open: list[Transfer] = field(default_factory=list)

    def record(self, purpose: Purpose, transfer: Transfer) -> None:
        self.wire_bytes[purpose] += transfer.wire_bytes
        if purpose is Purpose.GRADIENT:
            self._open.append(transfer)

    def end_round(self, participants: Sequence[int]) -> None:
        """Closes a step: the gradient transfers since the last one belong to it."""
        self.steps.append(StepTraffic(tuple(participants), tuple(self._open)))
        self._open.clear()

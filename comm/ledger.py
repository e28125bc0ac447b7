"""The record of bytes that each step put on the wire.

Two views of every collective: what would cross between one of N separate workers and the others
(logical), and what did cross between this process and others (wire). Where every process hosts one
worker they agree.
"""

from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple


class Purpose(Enum):
    """What a collective was for. Only gradient traffic counts as the cost of a step."""

    GRADIENT = "gradient"
    EVALUATION = "evaluation"
    BOOKKEEPING = "bookkeeping"


class Flow(NamedTuple):
    """Bytes out of one participant to others, and into it from others."""

    sent_bytes: int
    received_bytes: int

    def __add__(self, other: tuple[Any, ...]) -> "Flow":
        return Flow(self.sent_bytes + other[0], self.received_bytes + other[1])

    @classmethod
    def even(cls, num_bytes: int) -> "Flow":
        """As much in as out."""
        return cls(num_bytes, num_bytes)


NOTHING = Flow(0, 0)


@dataclass(frozen=True)
class Transfer:
    """One collective.

    Attributes:
        collective: its name in torch.distributed.
        handed_bytes: what this process handed to it.
        wire: what crossed between this process and others.
        logical: what would cross between one of N separate workers and the others.
    """

    collective: str
    handed_bytes: int
    wire: Flow
    logical: Flow


@dataclass(frozen=True)
class StepTraffic:
    """The gradient traffic of one round, and which workers took part in it."""

    participants: tuple[int, ...]
    transfers: tuple[Transfer, ...]

    @property
    def wire(self) -> Flow:
        return sum((transfer.wire for transfer in self.transfers), NOTHING)

    @property
    def logical(self) -> Flow:
        return sum((transfer.logical for transfer in self.transfers), NOTHING)


@dataclass
class Ledger:
    """Bytes by step for gradients, as running totals for every purpose.

    Attributes:
        steps: the gradient traffic of every finished round, or of the last ones.
        num_steps: finished rounds.
        wire: what has crossed between this process and others so far, by purpose.
    """

    steps: MutableSequence[StepTraffic] = field(default_factory=list)
    wire: dict[Purpose, Flow] = field(default_factory=lambda: dict.fromkeys(Purpose, NOTHING))
    num_steps: int = 0
    _open: list[Transfer] = field(default_factory=list)

    def record(self, purpose: Purpose, transfer: Transfer) -> None:
        self.wire[purpose] += transfer.wire
        if purpose is Purpose.GRADIENT:
            self._open.append(transfer)

    def end_round(self, participants: Sequence[int]) -> None:
        """Closes a step: the gradient transfers since the last one belong to it."""
        self.num_steps += 1
        self.steps.append(StepTraffic(tuple(participants), tuple(self._open)))
        self._open.clear()

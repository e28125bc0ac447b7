"""The record of bytes that each step put on the wire.

Two views of every collective: what would cross between one of N separate workers and the others
(logical), and what did cross between this process and others (wire). Where every process hosts one
worker they agree.
"""

from collections import deque
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from compsgd.codec.wire import WireFormat

# A training of millions of steps must not fill the memory with their bytes.
_KEPT_STEPS = 1000


class Purpose(Enum):
    """What a collective was for. Only gradient traffic counts as the cost of a step.

    Source:
        design, section 6.

    Examples:
        >>> from compsgd.comm import Purpose
        >>> [purpose.value for purpose in Purpose]
        ['gradient', 'evaluation', 'bookkeeping']
    """

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


class Logical(NamedTuple):
    """What each of N separate workers would send to every other one: a shard of a vector.

    Attributes:
        format: of the vector.
        num_workers: N.
        num_shards: into how many shards it would be cut.
    """

    format: WireFormat
    num_workers: int
    num_shards: int


@cache
def _logical_flow(logical: Logical) -> Flow:
    size_bytes = logical.format.size_bytes(logical.num_shards)
    return Flow.even((logical.num_workers - 1) * size_bytes)


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
    """The record of bytes: by step for gradients, as running totals for every purpose.

    Attributes:
        steps: the gradient traffic of every finished round, or of the last ones.
        num_steps: finished rounds.
        wire: what has crossed between this process and others so far, by purpose.

    Source:
        design, section 6.

    Examples:
        >>> import compsgd, torch
        >>> from compsgd.comm import Collectives, Ledger, Purpose, build_exchange
        >>> ledger = Ledger()
        >>> exchange = build_exchange("all_gather", Collectives(ledger, Purpose.GRADIENT, 2))
        >>> weights = torch.zeros(800)
        >>> optimizer = compsgd.SignSGD([weights], lr=0.1, exchange=exchange)
        >>> weights.grad = torch.ones(800)
        >>> optimizer.compress(0)
        >>> optimizer.step()
        >>> ledger.steps[-1].logical.sent_bytes  # 100 bytes of codes behind a header of 28
        128
    """

    steps: MutableSequence[StepTraffic] = field(default_factory=list)
    wire: dict[Purpose, Flow] = field(default_factory=lambda: dict.fromkeys(Purpose, NOTHING))
    num_steps: int = 0
    _open: list[Transfer] = field(default_factory=list)

    @classmethod
    def short(cls) -> "Ledger":
        """One that keeps the last 1000 steps, and the totals of all."""
        return cls(steps=deque(maxlen=_KEPT_STEPS))

    def record(
        self,
        purpose: Purpose,
        collective: str,
        handed_bytes: int,
        wire: Flow,
        logical: "Logical | Flow | None" = None,
    ) -> None:
        """Enters a collective.

        Args:
            purpose: what it was for.
            collective: its name in torch.distributed.
            handed_bytes: what this process handed to it.
            wire: what crossed between this process and others.
            logical: what separate workers would send each other for the same, as a format, of
                which the bytes are worked out here, or in bytes; None for nothing.
        """
        self.wire[purpose] += wire
        if purpose is Purpose.GRADIENT:
            flow = _logical_flow(logical) if isinstance(logical, Logical) else logical or NOTHING
            self._open.append(Transfer(collective, handed_bytes, wire, flow))

    def end_round(self, participants: Sequence[int]) -> None:
        """Closes a step: the gradient transfers since the last one belong to it."""
        self.num_steps += 1
        self.steps.append(StepTraffic(tuple(participants), tuple(self._open)))
        self._open.clear()

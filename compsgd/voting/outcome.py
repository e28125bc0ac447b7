"""What a round comes to, and what every client is handed to take one: `Aggregator`."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from compsgd.gradient import Gradient
from compsgd.kinds import Kind
from compsgd.layout import FlatLayout, Span, Voters
from compsgd.voting.ballot import BallotHeader


class Outcome:
    """What a round came to; its tensors are valid until the next one.

    Attributes:
        headers: what every worker said of its ballot.
        voters: who votes where; nothing where nobody does.
        received: by chunk as they come, uint8 of shape (num_workers, num_bytes): this process's
            shard of every ballot, behind headers.
        result: of the whole vector, for `Aggregator.updates`, as far as it has come; of levels None
            if nobody votes.
    """

    def __init__(
        self,
        headers: Sequence[BallotHeader],
        voters: Sequence[Voters],
        received: list[Tensor],
        result: Tensor | None,
    ) -> None:
        self.headers = headers
        self.voters = voters
        self.received = received
        self.result = result
        self._on_the_way: deque[tuple[Span, Callable[[], None]]] = deque()
        self._arrived: list[Span] = []

    @property
    def participants(self) -> tuple[int, ...]:
        """The workers that took part."""
        return tuple(header.worker for header in self.headers if header.takes_part)

    def expect(self, span: Span, wait: Callable[[], None]) -> None:
        """Results of the next elements will be there when `wait` returns."""
        self._on_the_way.append((span, wait))

    def arrivals(self) -> Iterator[Span]:
        """Chunk after chunk, each as soon as its results are there; may be asked again."""
        yield from self._arrived
        while self._on_the_way:
            span, wait = self._on_the_way.popleft()
            wait()
            self._arrived.append(span)
            yield span

    def complete(self) -> None:
        """Waits for all results."""
        for _ in self.arrivals():
            pass


class Aggregator(Protocol):
    """One round after another: `compress` for every hosted worker, then `aggregate`.

    Attributes:
        layout: of the flat vector.
    """

    @property
    def layout(self) -> FlatLayout: ...

    def compress(self, slot: int, gradient: Gradient, round_: int) -> None:
        """Takes a gradient as a worker's ballot; a later one of the same round replaces it.

        Args:
            slot: whose, by place among the hosted workers.
            gradient: of the layout's elements. If it is not finite the worker sits out.
            round_: counts from 0.
        """

    @property
    def cast(self) -> Collection[int]:
        """Who has compressed since the last `aggregate`, by place among the hosted workers."""

    def aggregate(self, round_: int, gradient: Gradient | None = None) -> Outcome:
        """Exchanges the ballots and combines them; all processes call it together.

        Args:
            gradient: of the only hosted worker, if it has not compressed.
        """

    def updates(self, outcome: Outcome) -> Iterator[tuple[Span, Tensor]]:
        """What the round moves parameters by before lr: float32, shape (span.numel,), span by
        span where somebody votes. The next one may overwrite it."""

    def pending(self) -> dict[str, Tensor]:
        """What was compressed since the last `aggregate`, for a state_dict."""

    def pending_kinds(self) -> dict[str, Kind]:
        """What `pending` may hold, by name."""

    def restore(self, pending: Mapping[str, Tensor], round_: int) -> None:
        """Takes over what `pending` returned."""

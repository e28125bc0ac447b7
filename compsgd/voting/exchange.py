"""What a round asks of those who carry its ballots.

Nothing in `compsgd` itself imports torch.distributed: an exchange is handed in. The one here is
for workers that all live in this process; `compsgd.comm` has those that cross processes.

A ballot is cut into shards, and each process counts one of them. In an exchange that brings all
ballots to everybody there is only one shard: the whole.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from torch import Tensor

from compsgd.checks import check_integer
from compsgd.codec.wire import RoundFormat

# Bytes on their way: waits for them.
Arrival: TypeAlias = Callable[[], Tensor]


class Exchange(Protocol):
    """All processes call the same methods in the same order, with equal sizes. What is sent stays
    as it is until it is waited for.

    Attributes:
        num_workers: N, the workers of all processes together.
        hosted: which of the workers 0..N-1 live in this process, in ascending order; as many on
            every process.
        num_shards: into how many shards a ballot is cut.
        shard: which of them this process counts.
        num_processes: W.
        outer: between hosts, where ballots go no farther than the host, and sums of them to all;
            None where there is one level.

    Source:
        design, section 3.

    Examples:
        >>> import compsgd
        >>> exchange: compsgd.Exchange = compsgd.InProcessExchange(num_workers=4)
        >>> list(exchange.hosted), exchange.num_shards
        ([0, 1, 2, 3], 1)
    """

    @property
    def num_workers(self) -> int: ...
    @property
    def hosted(self) -> Sequence[int]: ...
    @property
    def num_shards(self) -> int: ...
    @property
    def shard(self) -> int: ...
    @property
    def num_processes(self) -> int: ...
    @property
    def outer(self) -> "Exchange | None": ...

    def distribute(self, ballots: Tensor, format: RoundFormat | None) -> Arrival:
        """Sets out to bring ballots to those who count them.

        Args:
            ballots: uint8, shape (k, num_shards, num_bytes), a row for each of k hosted workers.
            format: what they hold, for the ledger; None for what separate workers would not send.

        Returns:
            what waits for uint8, shape (k * W, num_bytes) of W processes: this process's shard of
            every ballot, by worker if all hosted workers' are there, and else by process.
        """

    def collect(self, result: Tensor, format: RoundFormat) -> Arrival:
        """Sets out to bring everybody's result for their shard to everybody.

        Args:
            result: uint8, shape (num_bytes,).
            format: what it holds, for the ledger.

        Returns:
            what waits for uint8, shape (num_shards, num_bytes). With one shard nobody needs to call
            it.
        """

    def by_shards(self) -> "Exchange":
        """The same processes with as many shards as there are processes, for sums of float32."""

    def end_round(self, participants: Sequence[int]) -> None:
        """Told once a round, after its last collective, which workers took part."""

    def share(self, mine: Tensor) -> Tensor:
        """Brings a few bytes, which are no gradient, to everybody.

        Args:
            mine: uint8, shape (k,), equally many on all processes.

        Returns:
            uint8, shape (W, k), by process.
        """

    def travel_s(self, format: RoundFormat) -> float:
        """How long all that one process sends of a round travels, as measured the first time; the
        same on all processes, which ask together."""

    def compare(self, facts: Mapping[str, str]) -> None:
        """Compares facts, by name, between all processes.

        Raises:
            PeerError: on every process alike, naming what differs and where.
        """


class InProcessExchange:
    """All N workers live in this process: nothing is sent.

    Source:
        design, section 6.

    Examples:
        >>> import compsgd, torch
        >>> weights = torch.zeros(3)
        >>> exchange = compsgd.InProcessExchange(num_workers=2)
        >>> optimizer = compsgd.SignSGD([weights], lr=0.5, exchange=exchange)
        >>> for worker, gradient in enumerate(([1.0, 1.0, -1.0], [1.0, 2.0, -3.0])):
        ...     weights.grad = torch.tensor(gradient)
        ...     optimizer.compress(worker)
        >>> optimizer.step()
        >>> weights.tolist()
        [-0.5, -0.5, 0.5]
    """

    num_shards = 1
    shard = 0
    num_processes = 1
    outer: Exchange | None = None

    def __init__(self, num_workers: int) -> None:
        """
        Args:
            num_workers: N, at least 1.

        Raises:
            SettingError: num_workers is no such number.
        """
        self.num_workers = check_integer("num_workers", num_workers, 1)
        self.hosted: Sequence[int] = range(self.num_workers)

    def distribute(self, ballots: Tensor, format: RoundFormat | None) -> Arrival:
        """The ballots themselves."""
        return lambda: ballots[:, 0]

    def collect(self, result: Tensor, format: RoundFormat) -> Arrival:
        """The result itself."""
        return lambda: result.unsqueeze(0)

    def by_shards(self) -> "InProcessExchange":
        """Itself."""
        return self

    def end_round(self, participants: Sequence[int]) -> None:
        """Nothing to do."""

    def share(self, mine: Tensor) -> Tensor:
        """Itself, alone."""
        return mine.unsqueeze(0)

    def travel_s(self, format: RoundFormat) -> float:
        """No time."""
        return 0.0

    def compare(self, facts: Mapping[str, str]) -> None:
        """Nobody to differ from."""

"""What an optimizer asks of those who carry its ballots.

The optimizers never import torch.distributed: an exchange is handed to them. The one here is for
workers that all live in this process; `compsgd.comm` has those that cross processes.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from compsgd.checks import check_integer


class Exchange(Protocol):
    """Carries rows from the workers this process hosts to every process. All processes call the
    same methods in the same order."""

    @property
    def num_workers(self) -> int:
        """N, the workers of all processes together."""

    @property
    def hosted(self) -> Sequence[int]:
        """Which of the workers 0..N-1 live in this process, in ascending order."""

    def all_gather(self, rows: Tensor) -> Tensor:
        """Brings everybody's rows together.

        Args:
            rows: uint8, shape (len(hosted), num_bytes), a row for each hosted worker.

        Returns:
            uint8, shape (num_workers, num_bytes), row i from worker i.
        """

    def all_reduce_sum(self, vectors: Sequence[Tensor]) -> Tensor:
        """Adds up one float32 vector from every worker, in worker order from 0.

        Args:
            vectors: shape (numel,) each, one for each hosted worker.

        Returns:
            float32, shape (numel,): ((0 + v_0) + v_1) + ..., the same bits on every process.
        """

    def end_round(self, participants: Sequence[int]) -> None:
        """Told once a round, after its last collective, which workers took part."""


class InProcessExchange:
    """All N workers live in this process: nothing is sent."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = check_integer("num_workers", num_workers, 1)
        self.hosted: Sequence[int] = range(self.num_workers)

    def all_gather(self, rows: Tensor) -> Tensor:
        return rows

    def all_reduce_sum(self, vectors: Sequence[Tensor]) -> Tensor:
        return sum_in_order(vectors)

    def end_round(self, participants: Sequence[int]) -> None:
        pass


def sum_in_order(vectors: Sequence[Tensor]) -> Tensor:
    """((0 + v_0) + v_1) + ...: float addition is not associative, so the order is the contract."""
    total = vectors[0] + 0.0
    for vector in vectors[1:]:
        total += vector
    return total

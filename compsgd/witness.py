"""What a round combined, kept for those who look into it afterwards."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from compsgd.electorate import Electorate, parts_within
from compsgd.flat import Run


class RoundWitness:
    """Sees one round of an optimizer whose `witness` it is.

    Attributes:
        electorates: who voted where; empty if nobody took part.
        payloads: uint8, shape (num_workers, num_bytes): this process's shard of every ballot, until
            the next round.
        update: float32, flat, over all parameters: what was applied, but for the learning rate; 0
            where nobody voted.
    """

    def __init__(self, numel: int, device: torch.device) -> None:
        """Args: numel: of all parameters."""
        self.electorates: Sequence[Electorate] = ()
        self.payloads = torch.empty(0, dtype=torch.uint8, device=device)
        self.update = torch.zeros(numel, dtype=torch.float32, device=device)

    def watch(
        self,
        electorates: Sequence[Electorate],
        payloads: Tensor,
        updates: Iterator[tuple[Run, Tensor]],
    ) -> Iterator[tuple[Run, Tensor]]:
        """The same updates, on their way from `RoundOptimizer._combine` to the parameters."""
        self.electorates, self.payloads = electorates, payloads
        for run, update in updates:
            for voted, _ in parts_within(electorates, run):
                self.update[voted.slice] = update[voted.shifted(-run.start).slice]
            yield run, update

"""How long a cell trains: whole epochs, or so many rounds."""

from dataclasses import dataclass

from compsgd.workers.data.datasets import BatchPlan
from compsgd.workers.options import Options
from compsgd.workers.train.schedule import count_warmup_rounds


@dataclass(frozen=True)
class Duration:
    """The rounds of a cell.

    Attributes:
        rounds_per_epoch: of a whole epoch.
        num_rounds: of the cell; it may end inside an epoch.
    """

    rounds_per_epoch: int
    num_rounds: int

    @classmethod
    def of(cls, options: Options, plan: BatchPlan) -> "Duration":
        if options.steps is not None:
            return cls(plan.num_rounds, options.steps)
        assert options.epochs is not None, "one of both is given"
        return cls(plan.num_rounds, plan.num_rounds * options.epochs)

    @property
    def num_epochs(self) -> int:
        """The last one may be a part of one."""
        return -(-self.num_rounds // self.rounds_per_epoch)

    def rounds_of(self, epoch: int) -> int:
        """Of an epoch, from 0; none behind the last."""
        left = self.num_rounds - epoch * self.rounds_per_epoch
        return min(self.rounds_per_epoch, max(0, left))

    def warmup_rounds(self, warmup: float) -> int:
        """See count_warmup_rounds."""
        return count_warmup_rounds(warmup, self.num_rounds)

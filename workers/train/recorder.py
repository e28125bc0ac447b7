"""Where a cell is, and what it has measured so far."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from compsgd.history import History
from compsgd.workers.options import Options
from compsgd.workers.train.measures import Measure
from compsgd.workers.train.scores import Score


@dataclass
class Recorder:
    """The histories of a cell as they grow."""

    epoch: list[Score] = field(default_factory=list)
    epoch_step: list[int] = field(default_factory=list)
    test: list[Score] = field(default_factory=list)
    test_step: list[int] = field(default_factory=list)
    batch: list[Score] = field(default_factory=list)
    batch_step: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    compute_seconds: list[float] = field(default_factory=list)
    bytes_sent: list[int] = field(default_factory=list)
    diagnosis_step: list[int] = field(default_factory=list)
    cosine: list[float] = field(default_factory=list)
    agreement: list[list[float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: with plain tuples, as it could not name the others."""
        return {
            name: [tuple(item) if isinstance(item, tuple) else item for item in items]
            for name, items in asdict(self).items()
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "Recorder":
        scores = {name: [Score(*one) for one in state[name]] for name in ("epoch", "test", "batch")}
        return cls(**state | scores)

    def as_history(self, bin_counts: list[Any], measure: Measure) -> History:
        of, key = measure.of, measure.key
        return {
            "avg_epoch_loss_hist": [score.loss for score in self.epoch],
            f"avg_epoch_{key}_hist": [of(score) for score in self.epoch],
            "batch_loss_hist": [score.loss for score in self.batch],
            f"batch_{key}_hist": [of(score) for score in self.batch],
            "batch_step_hist": self.batch_step,
            "bin_usage": np.stack(bin_counts) if bin_counts else np.empty(0),
            "test_loss_hist": [score.loss for score in self.test],
            f"test_{key}_hist": [of(score) for score in self.test],
            "bytes_sent_hist": self.bytes_sent,
            "seconds_hist": self.seconds,
            "compute_seconds_hist": self.compute_seconds,
        }

    def steps(self, options: Options) -> History:
        """After which rounds values were taken, where it is not after every whole epoch."""
        by_steps = options.steps is not None
        found: History = {"epoch_step_hist": self.epoch_step} if by_steps else {}
        return found | ({"test_step_hist": self.test_step} if _tests_by_round(options) else {})

    def diagnoses(self) -> History:
        return {
            "diagnosis_step_hist": self.diagnosis_step,
            "cosine_hist": self.cosine,
            "agreement_hist": np.array(self.agreement),
        }


@dataclass
class Position:
    """Where a cell is.

    Attributes:
        epoch: the current one, from 0.
        round_: the next one in it.
        must_evaluate: whether the evaluations after the round before it are still to come.
    """

    epoch: int = 0
    round_: int = 0
    must_evaluate: bool = False


def _tests_by_round(options: Options) -> bool:
    """Whether the test set is evaluated elsewhere than at the ends of whole epochs."""
    return options.evaluate_every > 0 or options.steps is not None

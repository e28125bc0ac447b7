"""Losses, accuracies and perplexities, summed in batch order in float64 so that no number of
processes or threads of the reader can change the last digit (design, section 6)."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


class BatchScore(NamedTuple):
    """One batch: its mean cross-entropy in nats, correct predictions, predictions; an image needs
    one, a sequence one at every place."""

    loss: float
    num_correct: float
    num_predictions: float

    @property
    def accuracy(self) -> float:
        return 100 * self.num_correct / self.num_predictions

    @property
    def perplexity(self) -> float:
        return _perplexity(self.loss)


class Score(NamedTuple):
    """Mean cross-entropy in nats, accuracy in percent."""

    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        return _perplexity(self.loss)


def _perplexity(loss: float) -> float:
    """Among how many equally likely classes a prediction that costs so many nats chooses."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def batch_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, BatchScore]:
    """The loss to differentiate, and the score of the batch.

    Args:
        logits: float, shape (..., classes).
        labels: int64, shape (...).
    """
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    num_correct = (logits.argmax(dim=-1) == labels).sum()
    measured = torch.stack([loss.detach().double(), num_correct.double()]).tolist()
    return loss, BatchScore(measured[0], measured[1], labels.numel())


def joined(pieces: Sequence[BatchScore]) -> BatchScore:
    """Of a batch that went through the model in pieces."""
    if len(pieces) == 1:
        return pieces[0]
    num_predictions = sum(piece.num_predictions for piece in pieces)
    loss = sum(piece.loss * piece.num_predictions for piece in pieces) / num_predictions
    return BatchScore(loss, sum(piece.num_correct for piece in pieces), num_predictions)


def sample_weighted(batches: Iterable[BatchScore]) -> Score:
    """Over all predictions: a small last batch counts for less."""
    loss = num_correct = num_predictions = 0.0
    for batch in batches:
        loss += batch.loss * batch.num_predictions
        num_correct += batch.num_correct
        num_predictions += batch.num_predictions
    return Score(loss / num_predictions, 100 * num_correct / num_predictions)


def batch_weighted(batches: Iterable[BatchScore]) -> Score:
    """Over all batches alike."""
    loss = accuracy = 0.0
    num_batches = 0
    for batch in batches:
        loss += batch.loss
        accuracy += batch.accuracy
        num_batches += 1
    return Score(loss / num_batches, accuracy / num_batches)

"""Losses and accuracies, summed in batch order in float64 so that no number of processes or
threads of the reader can change the last digit (design, section 6)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


class BatchScore(NamedTuple):
    """One batch: its mean cross-entropy in nats, images classified correctly, images."""

    loss: float
    num_correct: float
    num_images: float

    @property
    def accuracy(self) -> float:
        return 100 * self.num_correct / self.num_images


class Score(NamedTuple):
    """Mean cross-entropy in nats, accuracy in percent."""

    loss: float
    accuracy: float


def batch_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, BatchScore]:
    """The loss to differentiate, and the score of the batch."""
    loss = F.cross_entropy(logits, labels)
    num_correct = (logits.argmax(dim=1) == labels).sum()
    measured = torch.stack([loss.detach().double(), num_correct.double()]).tolist()
    return loss, BatchScore(measured[0], measured[1], len(labels))


def sample_weighted(batches: Iterable[BatchScore]) -> Score:
    """Over all images: a small last batch counts for less."""
    loss = num_correct = num_images = 0.0
    for batch in batches:
        loss += batch.loss * batch.num_images
        num_correct += batch.num_correct
        num_images += batch.num_images
    return Score(loss / num_images, 100 * num_correct / num_images)


def batch_weighted(batches: Iterable[BatchScore]) -> Score:
    """Over all batches alike."""
    loss = accuracy = 0.0
    num_batches = 0
    for batch in batches:
        loss += batch.loss
        accuracy += batch.accuracy
        num_batches += 1
    return Score(loss / num_batches, accuracy / num_batches)

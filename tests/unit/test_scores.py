"""Losses and accuracies of batches, and their two means."""

import math

import pytest
import torch

from compsgd.workers.train.scores import BatchScore, batch_loss, batch_weighted, sample_weighted

BATCHES = [BatchScore(1.0, 3, 4), BatchScore(4.0, 0, 1)]


def test_a_batch():
    logits = torch.zeros(4, 2, requires_grad=True)
    loss, score = batch_loss(logits, torch.tensor([0, 0, 1, 0]))
    assert loss.requires_grad
    assert score == (pytest.approx(math.log(2)), 3, 4)
    assert score.accuracy == 75


def test_over_all_images_a_small_batch_counts_for_less():
    assert sample_weighted(BATCHES) == (8 / 5, 60)


def test_over_all_batches_alike():
    assert batch_weighted(iter(BATCHES)) == (2.5, 37.5)

"""Losses and accuracies of batches, and their two means."""

import math

import pytest
import torch

from compsgd.workers.train.scores import (
    BatchScore,
    Score,
    batch_loss,
    batch_weighted,
    joined,
    sample_weighted,
)

BATCHES = [BatchScore(1.0, 3, 4), BatchScore(4.0, 0, 1)]


def test_a_batch():
    logits = torch.zeros(4, 2, requires_grad=True)
    loss, score = batch_loss(logits, torch.tensor([0, 0, 1, 0]))
    assert loss.requires_grad
    assert score == (pytest.approx(math.log(2)), 3, 4)
    assert score.accuracy == 75


def test_a_batch_of_sequences_has_a_prediction_at_every_place():
    logits = torch.zeros(2, 3, 5)
    logits[0, :, 1] = 1.0
    labels = torch.ones(2, 3, dtype=torch.int64)
    loss, score = batch_loss(logits, labels)
    assert score[1:] == (3, 6)
    by_token = torch.nn.functional.cross_entropy(logits.view(6, 5), labels.view(6))
    assert loss == by_token
    assert score.perplexity == math.exp(by_token.double())


def test_pieces_of_a_batch_are_one_batch():
    assert joined(BATCHES) == (pytest.approx((1.0 * 4 + 4.0) / 5), 3, 5)
    assert joined(BATCHES[:1]) is BATCHES[0]


def test_perplexity_of_a_run_that_diverged():
    assert Score(math.log(3), 0.0).perplexity == pytest.approx(3)
    assert Score(1e5, 0.0).perplexity == math.inf
    assert math.isnan(Score(math.nan, 0.0).perplexity)


def test_over_all_images_a_small_batch_counts_for_less():
    assert sample_weighted(BATCHES) == (8 / 5, 60)


def test_over_all_batches_alike():
    assert batch_weighted(iter(BATCHES)) == (2.5, 37.5)

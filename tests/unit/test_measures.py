"""What is shown beside the loss."""

import math

from compsgd.workers.data.datasets import DATASETS
from compsgd.workers.train.measures import ACCURACY, PERPLEXITY, format_number, measure_of
from compsgd.workers.train.scores import BatchScore, Score


def test_text_has_perplexity_and_images_have_accuracy():
    assert {name: measure_of(name).key for name in DATASETS} == {
        "digits": "acc", "MNIST": "acc", "FashionMNIST": "acc", "CIFAR10": "acc",
        "CIFAR100": "acc", "folder": "acc", "text": "perplexity", "stdlib": "perplexity",
    }  # fmt: skip


def test_numbers_and_words():
    score = Score(math.log(5), 96.125)
    assert ACCURACY.text(score) == "accuracy 96.12 %"
    assert PERPLEXITY.text(score) == "perplexity 5.00"
    assert PERPLEXITY.number(BatchScore(math.log(7), 1, 2), digits=1) == "7.0"
    assert PERPLEXITY.number(Score(1e4, 0.0)) == "inf"


def test_numbers_that_do_not_fit():
    assert format_number(None, 2) == "-"
    assert format_number(1.5e9, 2) == "1.50e+09"
    assert format_number(math.nan, 2) == "nan"

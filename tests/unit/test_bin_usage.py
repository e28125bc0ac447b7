"""How many elements of each update had which level."""

import numpy as np
import torch

from compsgd.optim.bin_usage import BinUsage


def test_levels_are_counted_and_the_rest_stays_at_0():
    usage = BinUsage(num_bits=2)
    usage.begin(10)
    usage.add(torch.tensor([2.0, -2.0, 1.0]))
    usage.add(torch.tensor([0.0, 1.0]))
    assert [counts.tolist() for counts in usage.by_step] == [[1, 0, 6, 2, 1]]
    assert usage.by_step[0].dtype == np.int64


def test_means_count_rounded_away_from_zero():
    usage = BinUsage(num_bits=2)
    usage.begin(5)
    usage.add(torch.tensor([0.5, -0.25, 1.5, -1.0, -1.001]))
    assert usage.by_step[0].tolist() == [1, 2, 0, 1, 1]


def test_a_step_without_votes():
    usage = BinUsage(num_bits=1)
    usage.begin(7)
    assert usage.by_step[0].tolist() == [0, 7, 0]


def test_what_is_saved_comes_back_as_a_copy():
    one, other = BinUsage(1), BinUsage(1)
    assert one.as_lists() == []
    for level in (1.0, -1.0):
        one.begin(2)
        one.add(torch.full((2,), level))
    saved = one.as_lists()
    assert saved == [[0, 0, 2], [2, 0, 0]]
    other.restore(saved)
    other.begin(2)
    other.by_step[0][0] = 99
    assert saved == [[0, 0, 2], [2, 0, 0]]
    assert len(other.by_step) == 3
    other.restore(BinUsage(1).as_lists())
    assert other.by_step == []

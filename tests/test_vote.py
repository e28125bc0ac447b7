"""The vote against a plain statement of its rule (design, section 2, step 4)."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from compsgd.vote import mean, sum_dtype, vote


def plain_vote(levels):
    total = sum(levels)
    sign = (total > 0) - (total < 0)
    return sign * math.ceil(abs(total) / len(levels))


@given(st.integers(1, 8), st.data())
def test_vote_follows_the_rule(num_bits, data):
    largest = 2 ** (num_bits - 1)
    levels = data.draw(st.lists(st.integers(-largest, largest), min_size=1, max_size=300))
    total = torch.tensor([sum(levels)], dtype=sum_dtype(num_bits, len(levels)))
    voted = vote(total.clone(), len(levels))
    assert voted.tolist() == [plain_vote(levels)]
    assert abs(int(voted)) <= largest
    assert mean(total, len(levels)).item() == torch.tensor(sum(levels) / len(levels)).item()


def test_extreme_sums_do_not_overflow():
    for num_workers in (1, 253, 254, 255, 10_000):
        total = torch.full((3,), 128 * num_workers, dtype=torch.int64)
        total = total.to(sum_dtype(8, num_workers))
        assert vote(total, num_workers).tolist() == [128] * 3
        assert vote(-total, num_workers).tolist() == [-128] * 3

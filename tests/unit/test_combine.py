"""The vote against a plain statement of its rule (design, section 2, step 4)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compsgd.codec.combine import MAX_WORKERS, mean, round_away, vote


def plain_vote(levels):
    total = sum(levels)
    sign = (total > 0) - (total < 0)
    return sign * math.ceil(abs(total) / len(levels))


@given(st.integers(1, 8), st.data())
def test_vote_follows_the_rule(num_bits, data):
    largest = 2 ** (num_bits - 1)
    levels = data.draw(st.lists(st.integers(-largest, largest), min_size=1, max_size=300))
    total = torch.tensor([sum(levels)], dtype=torch.int32)
    voted = vote(total, len(levels))
    assert voted.tolist() == [plain_vote(levels)]
    assert abs(int(voted)) <= largest
    assert mean(total, len(levels)).item() == torch.tensor(sum(levels) / len(levels)).item()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7, 253, 1023, 10_007, MAX_WORKERS])
def test_every_sum_is_divided_exactly(num_workers):
    """Integers against float32 with a reciprocal, around every multiple of n."""
    multiples = torch.arange(-128, 129, dtype=torch.int64) * num_workers
    sums = torch.cat([multiples + offset for offset in (-1, 0, 1)])
    sums = sums[sums.abs() <= 128 * num_workers]
    plain = sums.sign() * ((sums.abs() + num_workers - 1) // num_workers)
    assert torch.equal(vote(sums.to(torch.int32), num_workers).to(torch.int64), plain)
    number = torch.tensor(float(num_workers))
    assert torch.equal(vote(sums.to(torch.int32), number).to(torch.int64), plain)
    assert torch.equal(round_away(mean(sums, num_workers)).to(torch.int64), plain)

"""How far workers agree."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import compsgd
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.layout import Span, Voters
from compsgd.voting.majority import cosine, majority_counts, mean_where_voted


def counts_of(ballots, voters, shard, zeros):
    packed = [compsgd.pack(torch.tensor(one), 3, zeros) for one in ballots]
    return majority_counts(voters, torch.stack(packed), ballot_alphabet(3, zeros), shard).tolist()


def sign(level):
    return (level > 0) - (level < 0)


@settings(max_examples=25)
@given(st.booleans(), st.integers(1, 5), st.data())
def test_every_element_has_its_largest_group(zeros, num_workers, data):
    levels = st.integers(-4, 4).filter(lambda level: zeros or level)
    one_ballot = st.lists(levels, min_size=6, max_size=6)
    ballots = data.draw(st.lists(one_ballot, min_size=num_workers, max_size=num_workers))
    everybody = tuple(range(num_workers))
    found = counts_of(ballots, [Voters(Span(0, 6), everybody)], Span(0, 6), zeros)
    sizes = [max(Counter(map(sign, cast)).values()) for cast in zip(*ballots, strict=True)]
    assert found == [sizes.count(size) for size in range(1, num_workers + 1)]


def test_a_shard_of_spans_with_voters_of_their_own():
    """The payloads hold elements 4 to 7: on 4 all vote, on 5 nobody, on 6 and 7 only worker 2."""
    ballots = [[1, 1, 1, 1], [1, 1, 1, 1], [-1, 1, -1, 1]]
    voters = [Voters(Span(0, 5), (0, 1, 2)), Voters(Span(6, 9), (2,))]
    assert counts_of(ballots, voters, Span(4, 8), zeros=False) == [2, 1, 0]


def test_damaged_bytes_are_an_error():
    packed = torch.full((1, 2), 255, dtype=torch.uint8)
    voters = [Voters(Span(0, 5), (0,))]
    with pytest.raises(compsgd.DamagedDataError):
        majority_counts(voters, packed, ballot_alphabet(3, zeros=False), Span(0, 5))


def test_means_where_somebody_votes():
    total = torch.tensor([6.0, 6.0, 6.0, 6.0])
    voters = [Voters(Span(0, 1), (0, 1, 2)), Voters(Span(2, 4), (1,))]
    assert mean_where_voted(voters, total).tolist() == [2, 0, 6, 6]


def test_the_cosine_of_an_angle():
    one = torch.tensor([1.0, 0.0])
    assert cosine(one, torch.tensor([2.0, 2.0])) == pytest.approx(math.sqrt(0.5))
    assert cosine(one, -3 * one) == -1
    assert math.isnan(cosine(one, 0 * one))
    large = torch.tensor([3e38, 3e38])
    assert cosine(large, large) == pytest.approx(1)

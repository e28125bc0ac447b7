"""Ballot headers: small, reversible, and refused where they do not belong."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compsgd import CompsgdError
from compsgd.voting.ballot import BallotHeader, header_num_bytes

HEADER = BallotHeader(3, 17, 3, True, (True, False, True))

headers = st.builds(
    BallotHeader,
    worker=st.integers(0, 2**32 - 1),
    round=st.integers(0, 2**32 - 1),
    symbol_bits=st.integers(0, 255),
    zeros=st.booleans(),
    present=st.lists(st.booleans(), max_size=70).map(tuple),
)


@given(headers)
def test_round_trip_and_size(header):
    data = header.to_bytes()
    assert len(data) == header_num_bytes(len(header.present))
    assert len(data) <= 64 + (len(header.present) + 7) // 8
    assert BallotHeader.from_bytes(data) == header


def test_non_finite_round_trip():
    header = dataclasses.replace(HEADER, present=(False,) * 3, non_finite=2)
    assert BallotHeader.from_bytes(header.to_bytes()) == header
    assert not header.takes_part


@given(st.binary(max_size=30))
def test_any_bytes_are_a_header_or_an_error(data):
    try:
        header = BallotHeader.from_bytes(data)
    except CompsgdError:
        return
    assert header.to_bytes() == data


@given(st.integers(0, 24 * 8 + 7))
def test_a_flipped_bit_is_another_header_or_an_error(bit):
    data = bytearray(HEADER.to_bytes())
    data[bit // 8] ^= 1 << bit % 8
    try:
        header = BallotHeader.from_bytes(bytes(data))
    except CompsgdError:
        return
    assert header != HEADER


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("worker", 4, "worker 3 instead of 4"),
        ("round", 18, "round 17 instead of 18"),
        ("symbol_bits", 2, "symbol_bits 3 instead of 2"),
        ("zeros", False, "zeros True instead of False"),
        ("present", (True,) * 4, "number of parameters 3 instead of 4"),
    ],
)
def test_a_header_that_does_not_belong_says_why(field, value, message):
    with pytest.raises(CompsgdError, match=message):
        HEADER.check_matches(dataclasses.replace(HEADER, **{field: value}))


def test_presence_is_the_voters_own_affair():
    HEADER.check_matches(dataclasses.replace(HEADER, present=(False,) * 3))

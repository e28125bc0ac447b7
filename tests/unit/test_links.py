"""Rates of links as text, and what travels on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compsgd.workers.failures import UsageError
from compsgd.workers.prediction.links import Link, parse_rate, rate_text


@pytest.mark.parametrize(
    ("text", "rate"), [("10mbit", 1e7), ("2.5gbit", 2.5e9), (" 400 Gbit/s ", 4e11), ("9bit", 9.0)]
)
def test_rates_are_read(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "1gb", "0mbit", "-1gbit", "1 gbit 2", "1e9"])
def test_what_is_none_is_told(text):
    with pytest.raises(UsageError, match="is no rate of a link: write 100mbit"):
        parse_rate(text)


@given(st.sampled_from([1, 1e3, 1e6, 1e9, 1e12]), st.integers(1, 999))
def test_what_is_written_can_be_read(unit, number):
    assert parse_rate(rate_text(unit * number)) == pytest.approx(unit * number)


def test_headers_of_packets_take_their_share():
    assert Link(1e9, 1.0).travel_s(125_000_000) == pytest.approx(1514 / 1448)

"""Predictions side by side, and where a vote stops to pay."""

import itertools
import math
from dataclasses import replace

import pytest

from compsgd.workers.prediction.links import Link
from compsgd.workers.prediction.machine import USUAL
from compsgd.workers.prediction.methods import CODED_SHARES, Cluster
from compsgd.workers.prediction.prediction import (
    Gradients,
    break_even,
    over_bandwidths,
    predict,
    votes,
)

GRADIENTS = Gradients(11_700_000, 62)
CLUSTER = Cluster(4, 1, Link(1e9, 50e-6), Link(1e11, 5e-6), USUAL, 0.1)


def found(cluster=CLUSTER, num_bits=(1, 3)):
    return predict(cluster, GRADIENTS, votes(num_bits, ["all_gather", "scatter_reduce"]))


def test_each_is_compared_with_both():
    float32, sixteen, *votes = found()
    assert float32.over_float32 == sixteen.over_sixteen_bits == 1.0
    assert len(votes) == 4
    for one in (float32, sixteen, *votes):
        assert one.over_float32 == pytest.approx(float32.method.step_s / one.method.step_s)
        assert one.over_sixteen_bits == pytest.approx(sixteen.method.step_s / one.method.step_s)


def test_fewer_bits_pay_more_over_a_slow_link():
    by_bits = found(replace(CLUSTER, link=Link(1e7, 50e-6)), (1, 2, 4, 8))
    ratios = [one.over_float32 for one in by_bits[3::2]]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 20


def test_at_the_break_even_both_take_equally_long():
    slow = replace(CLUSTER, machine=replace(USUAL, votes=USUAL.slowed(20).votes))
    *_, one = found(slow)
    for rate, reference in ((one.pays_below, 0), (one.pays_below_sixteen_bits, 1)):
        assert 1e6 < rate < 1e11
        there = found(replace(slow, link=Link(rate, 50e-6)))
        assert there[-1].method.step_s == pytest.approx(there[reference].method.step_s, rel=1e-3)


@pytest.mark.parametrize(
    ("saved_s", "rate"),
    [(lambda rate: 1.0, math.inf), (lambda rate: -1.0, 0.0), (lambda rate: 3e8 - rate, 3e8),
     # It may pay in two places: what counts is the first.
     (lambda rate: 1.0 if rate < 1e6 or 1e9 < rate < 2e9 else -1.0, 1e6)],
)  # fmt: skip
def test_break_even(saved_s, rate):
    assert break_even(saved_s) == pytest.approx(rate, rel=1e-6)


def test_lines_go_down_with_bandwidth():
    lines = over_bandwidths(CLUSTER, GRADIENTS, votes([3], ["scatter_reduce"]))
    assert list(lines) == ["float32", "16 bits", "3 bits, scatter_reduce"]
    for points in lines.values():
        rates, times = zip(*points, strict=True)
        assert (rates[0], rates[-1]) == (1e7, pytest.approx(1e11))
        # The number of chunks goes in steps.
        assert all(after <= 1.02 * before for before, after in itertools.pairwise(times))


def test_an_entropy_coder_pays_over_slow_links_alone():
    asked = votes([1, 3], ["scatter_reduce"], [False, True])
    assert [(one.num_bits, one.is_coded) for one in asked] == [(1, False), (3, False), (3, True)]

    def steps(rate):
        there = replace(CLUSTER, link=Link(rate, 50e-6))
        return {one.method.name: one.method.step_s for one in predict(there, GRADIENTS, asked)}

    plain, coded = "3 bits, scatter_reduce", "3 bits, scatter_reduce, coded"
    assert steps(1e7)[coded] == pytest.approx(CODED_SHARES[3] * steps(1e7)[plain], rel=0.05)
    assert steps(1e11)[coded] > steps(1e11)[plain]

"""The learning rate of a round, and what a warm-up may be."""

import math

import pytest

from compsgd import SettingError
from compsgd.workers.train.schedule import (
    SCHEDULES,
    check_warmup,
    count_warmup_rounds,
    lr_of_round,
)

ROUNDS, WARMUP = 10, 4


def rates(schedule, warmup=WARMUP):
    return [lr_of_round(0.1, schedule, round_, ROUNDS, warmup) for round_ in range(ROUNDS)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_rises_on_a_line_and_starts_the_schedule_at_its_largest(schedule):
    assert rates(schedule)[:WARMUP] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates(schedule)[WARMUP] == 0.1
    assert rates(schedule, warmup=0)[0] == 0.1


def test_constant():
    assert rates("constant")[WARMUP:] == [0.1] * 6
    assert rates("constant", warmup=0) == [0.1] * 10


def test_linear():
    sixths = [6, 5, 4, 3, 2, 1]
    assert rates("linear")[WARMUP:] == pytest.approx([0.1 * left / 6 for left in sixths])


def test_cosine():
    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * over / 6)) for over in range(6)]
    assert rates("cosine")[WARMUP:] == pytest.approx(expected)
    assert rates("cosine")[WARMUP + 3] == pytest.approx(0.05)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_round_moves_something(schedule):
    assert all(0 < rate <= 0.1 for rate in rates(schedule))
    assert lr_of_round(0.1, schedule, 0, 1, 0) == 0.1


@pytest.mark.parametrize(
    ("warmup", "num_rounds", "expected"),
    [
        (0, 7, 0), (0.1, 100, 10), (0.1, 4, 0), (0.1, 5, 1), (0.25, 10, 3), (0.75, 10, 8),
        (0.999, 2, 2), (1, 7, 1), (3, 7, 3), (200.0, 7, 200),
    ],
)  # fmt: skip
def test_rounds_of_a_warmup(warmup, num_rounds, expected):
    assert count_warmup_rounds(warmup, num_rounds) == expected


@pytest.mark.parametrize("value", [0, 0.0, 0.1, 0.999, 1, 1.0, 200, 200.0])
def test_shares_and_whole_numbers_are_warmups(value):
    assert check_warmup(value) == value


@pytest.mark.parametrize("value", [-0.1, -1, 1.5, math.inf, math.nan, True, "1", None])
def test_nothing_else_is(value):
    with pytest.raises(SettingError, match="warmup is"):
        check_warmup(value)

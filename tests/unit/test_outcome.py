"""What a round came to, as far as it has come."""

import pytest
import torch

from compsgd import DamagedDataError
from compsgd.layout import Span
from compsgd.voting.ballot import BallotHeader
from compsgd.voting.outcome import Outcome

SPANS = [Span(0, 4), Span(4, 6), Span(6, 7)]


def outcome_of(waited_for, damaged=None):
    """With results on their way: each is noted when it is waited for."""

    def waiting_for(index):
        def wait():
            if index == damaged:
                raise DamagedDataError(f"chunk {index}")
            waited_for.append(index)

        return wait

    outcome = Outcome([], [], [], torch.zeros(7))
    for index, span in enumerate(SPANS):
        outcome.expect(span, waiting_for(index))
    return outcome


def test_results_come_one_by_one_and_once():
    waited_for = []
    outcome = outcome_of(waited_for)
    assert next(outcome.arrivals()) == SPANS[0]
    assert waited_for == [0]
    assert list(outcome.arrivals()) == SPANS
    outcome.complete()
    assert list(outcome.arrivals()) == SPANS
    assert waited_for == [0, 1, 2]


def test_what_is_damaged_does_not_arrive():
    waited_for = []
    outcome = outcome_of(waited_for, damaged=1)
    with pytest.raises(DamagedDataError, match="chunk 1"):
        outcome.complete()
    assert waited_for == [0]


def test_participants():
    headers = [BallotHeader(worker, 0, 3, False, [worker != 1]) for worker in range(3)]
    assert Outcome(headers, [], [], None).participants == (0, 2)

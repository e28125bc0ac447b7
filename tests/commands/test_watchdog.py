"""The roll call and the agreement to stop, over a store that several clients share."""

import time

import pytest
import torch.distributed as dist

from compsgd.comm.group.roll_call import RollCall
from compsgd.workers.launch.watchdog import StopAgreement


def roll_calls(store, world_size, answer_within_s=0.2):
    return [RollCall(store, rank, world_size, "x", answer_within_s) for rank in range(world_size)]


def wait_for_verdict(roll_call):
    deadline = time.monotonic() + 5
    while (verdict := roll_call.verdict()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return verdict


def test_all_who_answer_are_here():
    calls = roll_calls(dist.HashStore(), 3)
    assert [one.verdict() for one in calls] == [None] * 3
    calls[1].call()
    for one in calls:
        one.answer()
    assert [one.verdict() for one in calls] == [[]] * 3
    assert calls[0].verdict() is None


def test_who_does_not_answer_is_gone():
    calls = roll_calls(dist.HashStore(), 4)
    calls[0].call()
    for one in (calls[0], calls[2]):
        one.answer()
    assert calls[0].verdict() is None
    assert wait_for_verdict(calls[0]) == [1, 3]
    assert wait_for_verdict(calls[2]) == [1, 3]


def test_who_has_left_need_not_answer():
    calls = roll_calls(dist.HashStore(), 3)
    calls[1].leave()
    calls[2].fail()
    calls[0].call()
    calls[0].answer()
    assert wait_for_verdict(calls[0]) == [2]
    assert calls[0].speaks_for_itself(2)
    assert not calls[0].speaks_for_itself(1)


def test_a_later_call_is_not_answered_by_an_earlier_answer():
    calls = roll_calls(dist.HashStore(), 2)
    for expected in ([], [1]):
        calls[0].call()
        calls[0].answer()
        if not expected:
            calls[1].answer()
        assert wait_for_verdict(calls[0]) == expected


def test_who_has_not_come_yet_is_not_gone():
    calls = roll_calls(dist.HashStore(), 3)
    calls[0].join()
    calls[1].join()
    calls[0].call()
    calls[0].answer()
    deadline = time.monotonic() + 5
    while (verdict := calls[0].verdict_on_those_who_came()) is None:
        assert time.monotonic() < deadline
    assert verdict == [1]
    assert not calls[0].has_joined(2)


def test_a_call_after_silence():
    calls = roll_calls(dist.HashStore(), 2)
    calls[0].call_if_silent_for(1000)
    calls[0].answer()
    assert calls[0].verdict() is None
    calls[0].call_if_silent_for(0)
    calls[0].answer()
    assert wait_for_verdict(calls[0]) == [1]


class Told:
    def __init__(self):
        self.wants_stop = False
        self.stage = ""


@pytest.mark.parametrize("told_in_round", [1, 2, 3])
@pytest.mark.parametrize("told", [0, 1])
def test_all_stop_after_the_same_round(told, told_in_round):
    """Whoever is told, and whether before its exchange or after it."""
    for before in (True, False):
        store = dist.HashStore()
        watchdogs = [Told(), Told()]
        agreements = [StopAgreement(store, watchdog) for watchdog in watchdogs]
        stopped = []
        for round_ in range(1, 6):
            if before and round_ == told_in_round:
                watchdogs[told].wants_stop = True
            for agreement in agreements:
                agreement.begin_exchange()
            if round_ == told_in_round:
                watchdogs[told].wants_stop = True
            stopped.append([agreement.is_due() for agreement in agreements])
            if any(stopped[-1]):
                break
        assert stopped[-1] == [True, True]
        assert len(stopped) == (told_in_round if before else told_in_round + 1)


def test_a_process_alone_stops_at_once():
    told = Told()
    agreement = StopAgreement(None, told)
    agreement.begin_exchange()
    assert not agreement.is_due()
    told.wants_stop = True
    assert agreement.is_due()

"""The roll call and the agreement to stop, over a store that several clients share."""

import threading
import time

import pytest
import torch.distributed as dist

from compsgd.comm.group.roll_call import RollCall
from compsgd.comm.group.store import BoundedStore, StoreSilentError
from compsgd.workers.launch.watchdog import StopAgreement


def roll_calls(store, world_size, answer_within_s=0.2):
    clients = [BoundedStore(store, 10) for _ in range(world_size)]
    return [
        RollCall(client, rank, world_size, "x", answer_within_s)
        for rank, client in enumerate(clients)
    ]


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
        agreements = [StopAgreement(store, watchdog, 10) for watchdog in watchdogs]
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
    agreement = StopAgreement(None, told, 10)
    agreement.begin_exchange()
    assert not agreement.is_due()
    told.wants_stop = True
    assert agreement.is_due()


FORGED = ["garbage", "-1", "1e7", "9" * 400, "10000000", str(1 << 40), "\u00b2"]


@pytest.mark.parametrize("forged", FORGED)
def test_forged_calls_are_no_news_to_anybody(forged):
    """Whatever stands under the key, a true call is answered by all, and at once."""
    store = dist.HashStore()
    calls = roll_calls(store, 3)
    for _ in range(3):
        store.set("x call", forged)
        for one in calls:
            one.answer()
            one.verdict()
        calls[1].call()
        for one in calls:
            one.answer()
        assert [one.verdict() for one in calls] == [[]] * 3
    assert len(calls) == 3
    assert store.num_keys() < 10


def test_calls_at_the_same_moment_lose_none():
    """The later of two that read the same number overwrites a newer call, which comes again."""
    store = dist.HashStore()
    calls = roll_calls(store, 2)
    calls[0].call()
    calls[0].answer()
    calls[0].verdict()
    calls[0].call()
    calls[0].answer()
    store.set("x call", "1")
    calls[1].answer()
    calls[0].answer()
    calls[1].answer()
    assert wait_for_verdict(calls[0]) == []


@pytest.mark.parametrize("forged", [*FORGED, "1", "2", "4"])
def test_a_forged_stop_stops_nobody_before_its_round(forged):
    store = dist.HashStore()
    watchdogs = [Told(), Told()]
    agreements = [StopAgreement(store, watchdog, 10) for watchdog in watchdogs]
    for agreement in agreements:
        agreement.begin_exchange()
        agreement.begin_exchange()
    store.set("stop after round", forged)
    assert [one.is_due() for one in agreements] == [forged == "2"] * 2
    watchdogs[1].wants_stop = True
    for agreement in agreements:
        agreement.begin_exchange()
    assert [one.is_due() for one in agreements] == [True, True]


class SilentStore:
    """Answers nothing until it is released, as behind a cut cable."""

    def __init__(self):
        self.released = threading.Event()

    def clone(self):
        return self

    def check(self, keys):
        self.released.wait(60)
        return True


def test_a_store_that_does_not_answer_is_given_up():
    silent = SilentStore()
    try:
        store = BoundedStore(silent, 0.05)
        for _ in range(2):
            with pytest.raises(StoreSilentError, match=r"has not answered for 0.05 s"):
                store.has("anything")
    finally:
        silent.released.set()


def test_what_a_store_raises_is_passed_on():
    class Gone(SilentStore):
        def check(self, keys):
            raise RuntimeError("connection reset")

    store = BoundedStore(Gone(), 10)
    with pytest.raises(RuntimeError, match="connection reset"):
        store.number("x")

"""Which of several processes that failed says best what went wrong."""

import signal

import pytest

from compsgd.workers.failures import InterruptedRunError, RunError
from compsgd.workers.launch.endings import (
    ChildError,
    Ending,
    is_final,
    raise_failure,
    raise_interruption,
)

TOLD = Ending(0, 1)
CRASHED = Ending(1, 1, "Traceback ...")
KILLED = Ending(2, -signal.SIGKILL)
ABORTED = Ending(3, -signal.SIGABRT)


def said(*failures, num_processes=5):
    with pytest.raises((ChildError, RunError)) as raised:
        raise_failure(failures, num_processes)
    return raised.value


def test_no_failure():
    raise_failure([], 2)


@pytest.mark.parametrize("failures", [(KILLED, CRASHED, TOLD), (TOLD, ABORTED, CRASHED, KILLED)])
def test_a_signal_from_outside_explains_the_rest(failures):
    assert said(*failures).format_message() == "worker process 2 was ended by SIGKILL"


@pytest.mark.parametrize("failures", [(ABORTED, TOLD, CRASHED), (CRASHED, ABORTED)])
def test_then_an_exception(failures):
    assert said(*failures).trace == CRASHED.trace


def test_the_first_exception():
    assert said(CRASHED, Ending(0, 1, "another")).trace == CRASHED.trace


def test_those_that_gloo_aborts_are_not_blamed():
    victims = ABORTED, Ending(0, -signal.SIGABRT)
    assert said(*victims, Ending(1, 1), num_processes=4).format_message() == (
        "worker processes 0, 3 were ended by SIGABRT: gloo does so to those that receive a message "
        "of an unexpected size, not to those that send it; look first at worker processes 1, 2"
    )
    assert said(ABORTED, num_processes=4).format_message().startswith("worker process 3 was ended")
    everybody = ABORTED, *(Ending(rank, -signal.SIGABRT) for rank in range(3))
    assert said(*everybody, num_processes=4).format_message().endswith("what all of them send")


def test_what_has_said_it_itself_is_an_exit_code():
    error = said(TOLD, Ending(1, 2))
    assert (error.exit_code, error.trace) == (2, None)


def test_rank_0_speaks_for_all():
    assert is_final([Ending(1, 1), TOLD])
    assert not is_final([Ending(1, 1), CRASHED, KILLED])


def test_an_unknown_signal_has_a_number():
    assert "was ended by signal 42" in said(Ending(1, -42)).format_message()


def test_interrupted_without_a_word():
    with pytest.raises(InterruptedRunError, match="interrupted") as raised:
        raise_interruption(signal.SIGTERM, [Ending(0, -signal.SIGTERM), Ending(1, 0)])
    assert raised.value.number == signal.SIGTERM


def test_interrupted_and_told():
    with pytest.raises(ChildError) as raised:
        raise_interruption(signal.SIGINT, [Ending(0, 143), Ending(1, -signal.SIGTERM)])
    assert (raised.value.exit_code, raised.value.trace) == (130, None)


def test_a_signal_that_came_too_late():
    raise_interruption(signal.SIGINT, [Ending(0, 0), Ending(1, 0)])

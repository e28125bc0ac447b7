"""The trial of the vote beside plain averaging, under a clock of its own."""

import logging

import pytest
import torch

from compsgd.comm.ddp.trial import Trial


class Clock:
    def __init__(self):
        self.now = 0.0
        self.trial = Trial(lambda: self.now)

    def steps(self, trial, share, *, vote_s, average_s):
        """Steps until it has decided; whether each voted."""
        turns = []
        while trial.pays is None:
            turns.append(trial.votes)
            trial.begin_step()
            self.now += vote_s if trial.votes else average_s
            # Later gradients of the step begin none.
            trial.begin_step()
            trial.end_step(share)
        return turns


def alone(mine):
    return mine.unsqueeze(0)


@pytest.mark.parametrize(("vote_s", "average_s"), [(1.0, 2.0), (2.0, 1.0), (1.0, 1.0)])
def test_what_takes_less_time_stays(vote_s, average_s, caplog):
    clock = Clock()
    trial = clock.trial
    with caplog.at_level(logging.INFO, "compsgd"):
        turns = clock.steps(trial, alone, vote_s=vote_s, average_s=average_s)
    assert turns == [True, True, False, True, False, True, False]
    assert trial.pays is trial.votes is (vote_s <= average_s)
    (line,) = caplog.messages
    assert line.startswith(f"gradients are {'voted on' if trial.pays else 'averaged'} from now on")
    assert f"{vote_s * 1e3:.1f} ms, and averaging {average_s * 1e3:.1f} ms" in line


def test_the_slowest_process_counts():
    other = torch.tensor([[9.0, 1.0]], dtype=torch.float64).view(torch.uint8)
    clock = Clock()
    trial = clock.trial
    clock.steps(trial, lambda mine: torch.cat([mine[None], other]), vote_s=1.0, average_s=2.0)
    assert trial.pays is False


def test_the_first_step_does_not_count():
    clock = Clock()
    trial = clock.trial
    trial.begin_step()
    clock.now += 1000
    trial.end_step(alone)
    clock.steps(trial, alone, vote_s=1.0, average_s=2.0)
    assert trial.pays


def test_a_decision_is_kept():
    clock = Clock()
    trial = clock.trial
    clock.steps(trial, alone, vote_s=2.0, average_s=1.0)
    trial.begin_step()
    clock.now += 5
    trial.end_step(alone)
    assert trial.pays is False
    trial.restart(True)
    assert trial.votes
    trial.restart()
    assert clock.steps(trial, alone, vote_s=2.0, average_s=1.0)[0]
    assert trial.pays is False

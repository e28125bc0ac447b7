"""Which runs the study has: the same budget of learning rates for all, tuned apart from what is
reported."""

import sys
from math import inf, nan

import pytest
from processes import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "study"))

import itertools

from candidates import METHODS
from plan import PLAN, REPORT, TUNE, planned, ready, reported, tuning
from tasks import TASKS, TUNING_SEED

LM, MNIST, FASHION = TASKS["lm"], TASKS["mnist"], TASKS["fashion"]
ADAMW, VOTE = METHODS["adamw"], METHODS["vote3"]


def nothing(trial):
    return None


def by_lr(function):
    """What is found where a run's metric depends on its learning rate alone."""
    return lambda trial: function(trial.lr) if trial.stage == TUNE else None


def distance(best):
    return by_lr(lambda lr: abs(lr - best))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_has_the_same_budget(method):
    tried = [trial.lr for trial in tuning(LM, method, nothing).trials]
    assert len(tried) == 5
    assert [b / a for a, b in itertools.pairwise(tried)] == pytest.approx([2] * 4, rel=1e-3)


def test_every_method_is_planned():
    assert {method.name for _, method in planned(PLAN)} == set(METHODS)


def test_the_best_is_reported_over_seeds_that_have_not_tuned():
    found = distance(5e-3)
    one = tuning(LM, ADAMW, found)
    assert (one.best, one.is_extended, one.is_at_edge) == (5e-3, False, False)
    runs = reported(LM, ADAMW, found)
    assert [(run.lr, run.seed, run.stage) for run in runs] == [
        (5e-3, seed, REPORT) for seed in LM.seeds
    ]
    assert TUNING_SEED not in LM.seeds
    assert not reported(LM, ADAMW, nothing)


def test_an_edge_has_two_more_beyond_it_once():
    one = tuning(LM, ADAMW, distance(0.3))
    assert len(one.trials) == 7
    assert one.trials[-1].lr == pytest.approx(5e-3 * 2**4)
    assert one.is_extended
    assert one.is_at_edge
    below = tuning(LM, ADAMW, distance(1e-9))
    assert below.trials[0].lr == pytest.approx(5e-3 / 2**4)


@pytest.mark.parametrize("bad", [nan, inf])
def test_a_run_that_diverged_is_never_best(bad):
    one = tuning(LM, ADAMW, by_lr(lambda lr: bad if lr > 3e-3 else lr))
    assert one.best == pytest.approx(5e-3 / 2**4)


def test_more_is_better_of_accuracies():
    assert tuning(MNIST, ADAMW, by_lr(lambda lr: -abs(lr - 8e-3))).best == 8e-3


def test_fashion_is_not_tuned_on():
    found = by_lr(lambda lr: -abs(lr - 8e-3))
    tuned = {trial.task.name for trial in tuning(FASHION, ADAMW, found).trials}
    assert tuned == {"mnist"}
    waiting = list(ready([(FASHION, ADAMW)], (TUNE, REPORT), found))
    assert {(run.task.name, run.stage, run.lr) for run in waiting} == {("fashion", REPORT, 8e-3)}
    assert not list(ready([(FASHION, ADAMW)], (TUNE, REPORT), nothing))


def test_what_is_exempt_may_move_as_far_as_the_largest_level():
    options = VOTE.at(LM.kind, 1e-3)
    assert options["exempt_lr"] == pytest.approx(4e-3)
    assert "exempt_lr" not in ADAMW.at(LM.kind, 1e-3)


def test_no_two_runs_share_a_folder():
    runs = [
        (trial.task.name, trial.method.name, trial.name, trial.definition)
        for task, method in planned(PLAN)
        for trial in [
            *tuning(task, method, nothing).trials, *reported(task, method, distance(0.1))
        ]
        if trial.task is task
    ]  # fmt: skip
    assert len(set(runs)) == len(runs)

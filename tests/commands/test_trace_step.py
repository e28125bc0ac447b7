"""The way of a gradient stays straight: what a step runs through is counted."""

import sys

import pytest
from processes import ROOT, run_command

LIMITS = {"optimizer step": (103, 20, 10), "hook, one backward": (132, 21, 14)}


@pytest.fixture(scope="module")
def shown():
    done = run_command(sys.executable, str(ROOT / "scripts" / "trace_step.py"), "--show")
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", LIMITS)
def test_a_step_runs_through_few_functions_and_files(shown, name):
    (line,) = (line for line in shown.splitlines() if line.startswith(f"{name} "))
    counted = tuple(int(number) for number in line.removeprefix(name).split())
    assert all(count <= limit for count, limit in zip(counted, LIMITS[name], strict=True)), line
    assert counted[0] > 40


def test_the_listing_goes_from_the_client_to_the_kernels(shown):
    for function in ("RoundOptimizer.step", "WorkerEncoder.encode", "ParamShare.move",
                     "Descent.apply", "vote_hook", "GroupVote.send", "write_levels"):  # fmt: skip
        assert f"    {function}\n" in shown

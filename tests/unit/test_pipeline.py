"""Stages one behind the other and side by side."""

from hypothesis import given
from hypothesis import strategies as st

from compsgd.workers.prediction.pipeline import Stage, finish_s

STAGES = st.builds(Stage, st.sampled_from("abc"), st.integers(0, 9).map(float))
JOBS = st.lists(st.lists(STAGES, max_size=5), max_size=6)


@given(JOBS)
def test_no_resource_and_no_job_is_faster_than_its_own_work_and_all_is_done_in_turn_at_most(jobs):
    found = finish_s(jobs)
    works = [sum(stage.seconds for stage in job) for job in jobs]
    every = [stage for job in jobs for stage in job]
    by_resource = [sum(one.seconds for one in every if one.resource == name) for name in "abc"]
    assert max([0.0, *works, *by_resource]) <= found <= sum(works)


@given(JOBS)
def test_it_is_what_following_every_stage_comes_to(jobs):
    assert finish_s(jobs) == _followed_s(jobs)


def _followed_s(jobs):
    """The same, and in so many words."""
    free, reached, ready = dict.fromkeys("abc", 0.0), [0] * len(jobs), [0.0] * len(jobs)

    def start_s(job):
        return max(ready[job], free[jobs[job][reached[job]].resource])

    while waiting := [job for job in range(len(jobs)) if reached[job] < len(jobs[job])]:
        chosen = min(waiting, key=lambda job: (start_s(job), -reached[job], job))
        resource, seconds = jobs[chosen][reached[chosen]]
        ready[chosen] = free[resource] = start_s(chosen) + seconds
        reached[chosen] += 1
    return max(ready, default=0.0)


def test_one_is_coded_while_another_travels():
    job = [Stage("core", 1.0), Stage("link", 2.0), Stage("core", 1.0)]
    assert finish_s([job]) == 4.0
    assert finish_s([job] * 3) == 1 + 3 * 2 + 1


def test_what_is_farthest_goes_first():
    behind = [Stage("core", 1.0), Stage("core", 5.0)]
    # Its second stage begins before the other's first one, and so the link waits.
    assert finish_s([behind, [Stage("core", 1.0), Stage("link", 9.0)]]) == 1 + 5 + 1 + 9

"""Which process says why a command fails, where a launcher has started several."""

import pytest

from compsgd.workers.commands import execution
from compsgd.workers.failures import InterruptedRunError, UsageError

# Four processes, two on each machine: rank, and rank on its machine.
FIRST, THIRD, FOURTH = ("0", "0"), ("2", "0"), ("3", "1")


@pytest.fixture
def ended(monkeypatch, capsys):
    """How it ends where an error is raised: the exit code, what is said, and how long it waits."""

    def end(place, error):
        rank, local_rank = place
        variables = {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": "4",
                     "MASTER_ADDR": "x", "MASTER_PORT": "1"}  # fmt: skip
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        waits = []
        monkeypatch.setattr(execution.time, "sleep", waits.append)

        def action():
            raise error

        with pytest.raises(SystemExit) as raised:
            execution.report_failures(action)
        return raised.value.code, capsys.readouterr().err, sum(waits)

    return end


@pytest.mark.parametrize(
    ("place", "said", "waited_s"),
    [
        (FIRST, "Error: wrong\n", 0),
        (THIRD, "Error: rank 2: wrong\n", 0),
        # The first one of its machine has spoken long before, if it fails, too.
        (FOURTH, "Error: rank 3: wrong\n", 10),
    ],
)
def test_the_first_on_each_machine_says_at_once_what_is_wrong(ended, place, said, waited_s):
    assert ended(place, UsageError("wrong")) == (2, said, waited_s)


@pytest.mark.parametrize(
    ("place", "said"),
    [(FIRST, "Error: stopped\n"), (THIRD, "Error: rank 2: stopped\n"), (FOURTH, "")],
)
def test_the_first_on_each_machine_says_that_it_is_interrupted(ended, place, said):
    assert ended(place, InterruptedRunError("stopped", 15)) == (143, said, 0)
    assert ended(place, KeyboardInterrupt()) == (130, said.replace("stopped", "interrupted"), 0)


@pytest.mark.parametrize(("is_told", "said"), [(True, ""), (False, "Error: rank 3: wrong\n")])
def test_what_another_process_of_the_machine_says_is_not_said_twice(ended, is_told, said):
    error = UsageError("wrong")
    error.is_told = is_told
    assert ended(FOURTH, error) == (2, said, 0)

"""A process that ends while others vote with it."""

import pytest
from processes import HELPERS, run_ranks


@pytest.mark.parametrize(
    ("num_votes", "message"),
    [(0, "not all of the 2 processes came to their first vote within 3 s"), (2, "all_gather of ")],
)
def test_the_other_gets_a_peer_error_in_time(num_votes, message, monkeypatch):
    # torch has warnings of its own for a store that waits in vain.
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    left, gone = run_ranks(2, HELPERS / "rank_leaves.py", str(num_votes))
    assert (gone.exit_code, gone.stderr) == (0, "")
    assert (left.exit_code, left.stderr) == (0, "")
    seconds, told = left.stdout.splitlines()
    # The limit itself, and some time for a busy machine.
    assert float(seconds) < 3.0 + 2.0
    assert told.startswith(message)

"""The DDP hook, in every situation that DDP knows, with real processes."""

from pathlib import Path

import pytest
from processes import run_ranks

SCRIPT = Path(__file__).parent / "rank_hook.py"
EQUAL = ["one_bucket", "many_buckets", "static_graph", "bucket_views", "accumulation"]
SITUATIONS = ["unused_parameters", "join", "infinite_gradients", "exempt_parameters"]
STATE = [
    "mean_magnitudes",
    "mean_magnitudes_in_buckets",
    "subgroups",
    "start_later",
    "checkpoint",
    "mistakes",
]


@pytest.mark.heavy
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("names", [EQUAL, SITUATIONS, STATE], ids=lambda names: names[0])
def test_situations(names, world_size):
    for rank in run_ranks(world_size, SCRIPT, *names):
        assert (rank.exit_code, rank.stderr) == (0, ""), rank.stdout
        assert rank.stdout.split() == names

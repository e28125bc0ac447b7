"""The processes that the tests of this folder share."""

import pytest
from ranks import RankPool


@pytest.fixture(scope="session")
def rank_pool():
    with RankPool() as pool:
        yield pool

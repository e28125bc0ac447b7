"""How many rounds a cell has, and each of its epochs."""

from types import SimpleNamespace

import pytest

from compsgd.workers.data.datasets import BatchPlan
from compsgd.workers.train.duration import Duration

# 12 batches, 3 rounds.
PLAN = BatchPlan(num_items=1437, batch_size=128, num_workers=4, seed=0, shuffle=True)


@pytest.mark.parametrize(
    ("epochs", "steps", "num_rounds", "by_epoch"),
    [
        (1, None, 3, [3]),
        (2, None, 6, [3, 3]),
        (None, 1, 1, [1]),
        (None, 3, 3, [3]),
        (None, 4, 4, [3, 1]),
        (None, 8, 8, [3, 3, 2]),
    ],
)
def test_epochs_or_steps(epochs, steps, num_rounds, by_epoch):
    duration = Duration.of(SimpleNamespace(epochs=epochs, steps=steps), PLAN)
    assert duration.num_rounds == num_rounds
    assert [duration.rounds_of(epoch) for epoch in range(duration.num_epochs)] == by_epoch
    assert duration.rounds_of(duration.num_epochs) == 0
    assert duration.rounds_of(duration.num_epochs + 1) == 0


def test_a_share_is_one_of_all_rounds():
    assert Duration(3, 30).warmup_rounds(0.1) == 3
    assert Duration(3, 30).warmup_rounds(7) == 7

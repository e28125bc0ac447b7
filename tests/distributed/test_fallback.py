"""The hook's trial of the vote beside plain averaging, and what averaging does to gradients."""

import copy

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from tiny_training import (
    SETTINGS,
    assert_all_ranks_alike,
    assert_equal_weights,
    everyones,
    loss_of,
    model,
)
from torch.nn.parallel import DistributedDataParallel

from compsgd import SettingError
from compsgd.comm import Purpose, VoteState, register_vote_hook
from compsgd.comm.traffic.cost import ring_all_reduce

pytestmark = pytest.mark.heavy
TURNS = 7
HOOK = SETTINGS | {"scale": "mean_abs", "momentum": 0.9, "exempt_1d": True, "fallback": True}


class Clock:
    """Of a step it says that it takes what it is told, on this process."""

    def __init__(self, vote_s, average_s):
        self.state, self.now = None, 0.0
        self.vote_s, self.average_s = vote_s, average_s

    def perf_counter(self):
        # Of every second call a step has passed.
        self.now += (self.vote_s if self.state._trial.votes else self.average_s) / 2
        return self.now


def hooked(clock=None, **settings):
    ddp = DistributedDataParallel(model(), bucket_cap_mb=0.01)
    state = register_vote_hook(ddp, **HOOK | settings)
    if clock is not None:
        clock.state, state._trial.clock = state, clock.perf_counter
    return ddp, state


def train(ddp, first, end):
    sgd = torch.optim.SGD(ddp.parameters(), lr=0.01)
    for step in range(first, end):
        sgd.zero_grad()
        loss_of(ddp, dist.get_rank(), step).backward()
        sgd.step()


@on_ranks(2)
def test_it_averages_where_one_process_is_slower_with_the_vote():
    """Rank 0 votes in less time, rank 1 does not."""
    clock = Clock(1.0 if dist.get_rank() == 0 else 3.0, 2.0)
    ddp, state = hooked(clock)
    train(ddp, 0, TURNS)
    assert state.pays is False
    assert_all_ranks_alike(ddp.module)
    sent_bytes = state.ledger.steps[-1].wire.sent_bytes
    numel = sum(parameter.numel() for parameter in ddp.parameters())
    # Each bucket is padded to as many processes.
    assert 0 <= sent_bytes - ring_all_reduce(numel, 2) <= 4 * 2 * len(list(ddp.parameters()))
    # The running means of all, of exempt parameters, too.
    before = state.state_dict()["memory"]
    train(ddp, TURNS, TURNS + 1)
    after = state.state_dict()["memory"]
    means = torch.cat([after["momentum"], after["exempt_momentum"]])
    found = torch.cat([parameter.grad.flatten() for parameter in ddp.parameters()])
    expected = torch.stack(everyones(means)).mean(0)
    assert torch.allclose(found.sort().values, expected.sort().values, rtol=1e-5, atol=1e-8)
    assert not torch.equal(before["momentum"], after["momentum"])
    assert torch.equal(before["max"], after["max"])


@on_ranks(2)
def test_it_votes_where_that_takes_less_time():
    ddp, state = hooked(Clock(1.0, 2.0))
    train(ddp, 0, TURNS + 2)
    assert state.pays is True
    assert_all_ranks_alike(ddp.module)
    voted = state.ledger.steps[-1].wire.sent_bytes
    averaged = state.ledger.steps[2].wire.sent_bytes
    assert 0 < voted < averaged


@pytest.mark.parametrize("pays", [True, False])
@on_ranks(2)
def test_a_saved_state_goes_on_with_what_was_decided(pays):
    whole, state = hooked(Clock(1.0, 2.0 if pays else 0.5))
    train(whole, 0, TURNS)
    assert state.pays is pays
    saved, weights = state.state_dict(), copy.deepcopy(whole.module.state_dict())
    train(whole, TURNS, TURNS + 3)
    resumed, its_state = hooked()
    resumed.module.load_state_dict(weights)
    its_state.load_state_dict(saved)
    assert its_state.pays is pays
    train(resumed, TURNS, TURNS + 3)
    assert_equal_weights(resumed.module, whole.module)


@on_ranks(2)
def test_without_it_nothing_is_tried():
    ddp, state = hooked(fallback=False)
    train(ddp, 0, 2)
    assert state.pays is None
    assert "pays" not in state.state_dict()
    assert state.ledger.wire[Purpose.GRADIENT].sent_bytes > 0


@on_ranks(1)
def test_a_level_must_be_as_large_as_a_gradient():
    with pytest.raises(SettingError, match="fallback needs scale='mean_abs'"):
        VoteState(fallback=True)

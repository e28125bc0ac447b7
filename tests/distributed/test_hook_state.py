"""The hook's state: saved and loaded, compared between ranks, and what is no use of it."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from silence import silent_log
from tiny_training import SETTINGS, assert_equal_weights, hooked_training, loss_of, model, train
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compsgd import PeerError, SettingError
from compsgd.comm import VoteState, register_vote_hook, vote_hook, wrap
from compsgd.voting.aggregator import LevelAggregator

pytestmark = pytest.mark.heavy


def start(net):
    return hooked_training(net, lr=0.01)


@on_ranks(2, 4)
def test_a_state_that_is_saved_goes_on_as_if_nothing_had_happened():
    whole, _, sgd = start(model())
    train(whole, sgd, range(6))
    first, state, sgd = start(model())
    train(first, sgd, range(3))
    saved = pickle.dumps(state.state_dict())
    second, state, sgd = start(copy.deepcopy(first.module))
    state.load_state_dict(pickle.loads(saved))
    train(second, sgd, range(3, 6))
    assert_equal_weights(whole.module, second.module)
    other = VoteState(params=model().parameters(), num_bits=4)
    with pytest.raises(SettingError, match="num_bits=3"):
        other.load_state_dict(state.state_dict())
    foreign = state.state_dict() | {"rank": dist.get_rank() + 1}
    with pytest.raises(SettingError, match=f"of rank {dist.get_rank() + 1}, and this is rank"):
        state.load_state_dict(foreign)
    with pytest.raises(SettingError, match="give each rank its own"):
        VoteState(params=model().parameters(), **SETTINGS).load_state_dict(foreign)


@on_ranks(2, 4)
def test_a_state_that_is_pickled():
    hooked, state, sgd = start(model())
    train(hooked, sgd, range(6))
    with silent_log():
        # It says what it leaves out.
        copied = pickle.loads(pickle.dumps(state))
    assert copied.process_group is None
    assert copied.iteration == 6
    assert copied.settings == state.settings
    for name, bound in state.state_dict()["memory"].items():
        assert torch.equal(copied.state_dict()["memory"][name], bound)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seed", (1, 2)),
        ("num_bits", (3, 4)),
        ("scale", (1.0, "mean_abs")),
        ("exchange", ("all_gather", "scatter_reduce")),
        ("start_vote_iter", (0, 5)),
        ("exempt_1d", (False, True)),
    ],
)
@on_ranks(2, 4)
def test_disagreements(name, values):
    """What must be alike is compared before anything is voted on."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(model())
    register_vote_hook(hooked, compile="off", **{name: values[min(rank, 1)]})
    with pytest.raises(PeerError, match=f"disagree on {name}"):
        loss_of(hooked, rank, 0).backward()


@pytest.mark.parametrize("where", ["send", "count"])
@on_ranks(2, 4)
def test_an_error_on_one_rank(where):
    """It goes on with nothing: later buckets would meet the wrong ones of others."""
    if dist.get_rank() != 0:
        return
    group = dist.new_group([0], use_local_synchronization=True)
    alone = DistributedDataParallel(model(), process_group=group, bucket_cap_mb=0.01)
    state = register_vote_hook(alone, **SETTINGS)
    loss_of(alone, 0, 0).backward()
    calls = []

    def failing(self, *args):
        calls.append(1)
        raise ValueError("out of something")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LevelAggregator, where, failing)
        alone.zero_grad()
        # torch makes an error of its own of what a future holds.
        with pytest.raises(Exception, match="out of something"):
            loss_of(alone, 0, 1).backward()
    assert len(calls) == 1
    assert state.iteration == 2


@on_ranks(2, 4)
def test_registrations_that_are_refused():
    hooked = DistributedDataParallel(model())
    register_vote_hook(hooked)
    cast = DistributedDataParallel(model())
    cast.mixed_precision = object()
    for mistake, expected in (
        (lambda: register_vote_hook(hooked), "takes no hook"),
        (lambda: register_vote_hook(model()), "takes a DistributedDataParallel"),
        (
            lambda: register_vote_hook(hooked, range_decay=0.9),
            "no setting range_decay; there are num_bits",
        ),
        (lambda: register_vote_hook(hooked, params=[]), "no setting params"),
        (lambda: register_vote_hook(cast), "mixed_precision"),
    ):
        with pytest.raises(SettingError, match=expected):
            mistake()


@on_ranks(2, 4)
def test_sparse_gradients_are_refused():
    sparse = DistributedDataParallel(nn.Embedding(10, 4, sparse=True))
    register_vote_hook(sparse)
    with pytest.raises(Exception, match="sparse"):
        sparse(torch.tensor([1, 2])).sum().backward()


@on_ranks(2, 4)
def test_a_state_that_does_not_know_the_parameters():
    lost = DistributedDataParallel(model())
    lost.register_comm_hook(VoteState(), vote_hook)
    loss = loss_of(lost, 0, 0)
    with pytest.raises(SettingError, match="does not know the model's parameters"):
        loss.backward()


@on_ranks(2, 4)
def test_the_older_name():
    hooked = DistributedDataParallel(model())
    state = wrap(hooked, **SETTINGS)
    loss_of(hooked, dist.get_rank(), 0).backward()
    assert state.iteration == 1
    with pytest.raises(SettingError, match="takes no hook"):
        wrap(hooked)

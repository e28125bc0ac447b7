"""torch.distributed.checkpoint: every process's workers in one checkpoint."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ranks import on_ranks
from test_process_group import name_of
from tiny_training import assert_equal_weights, loss_of, model
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

import compsgd

WITH_RANGES = [compsgd.CompressedSGD, compsgd.CompressedSGDVote]
OPTIMIZERS = [compsgd.SGD, compsgd.AdamW, compsgd.SignSGD, *WITH_RANGES]
# Everything that there is to remember.
SETTINGS = {
    "momentum": 0.9,
    "error_feedback": True,
    "exempt_1d": True,
    "seed": 7,
    "num_bits": 4,
    "decay_max": 0.9,
    "decay_min": 0.8,
}


def start(make, num_workers):
    net = model()
    settings = {key: value for key, value in SETTINGS.items() if key in make.known_settings}
    optimizer = make(
        net.parameters(), 0.01, num_workers=num_workers, process_group=dist.group.WORLD, **settings
    )
    return net, optimizer


def train(net, optimizer, rounds):
    for round_ in rounds:
        for slot, worker in enumerate(optimizer.exchange.hosted):
            optimizer.zero_grad()
            loss_of(net, worker, round_).backward()
            optimizer.compress(slot)
        optimizer.step()


def both_states(net, optimizer, options=None):
    return {
        "model": get_model_state_dict(net),
        "optim": get_optimizer_state_dict(net, optimizer, options=options),
    }


def save(net, optimizer, folder, options=None):
    dcp.save(both_states(net, optimizer, options), checkpoint_id=folder)


def load(net, optimizer, folder, options=None):
    state = both_states(net, optimizer, options)
    dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(net, state["model"])
    set_optimizer_state_dict(net, optimizer, optim_state_dict=state["optim"], options=options)


def ranges_of(optimizer):
    """By worker hosted here."""
    if not optimizer.keeps_range:
        return {}
    return {worker: optimizer.worker_range(worker) for worker in optimizer.exchange.hosted}


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("num_workers", [2, 4])
@pytest.mark.parametrize("make", OPTIMIZERS, ids=name_of)
@on_ranks(2)
def test_training_goes_on_as_if_nothing_had_happened(make, num_workers, flat, tmp_path):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    whole, of_whole = start(make, num_workers)
    train(whole, of_whole, range(6))
    first, of_first = start(make, num_workers)
    train(first, of_first, range(3))
    save(first, of_first, tmp_path, options)
    second, of_second = start(make, num_workers)
    load(second, of_second, tmp_path, options)
    assert of_second.round == 3
    assert_equal_weights(first, second)
    train(second, of_second, range(3, 6))
    assert_equal_weights(whole, second)
    assert of_second.round == 6
    ours, theirs = ranges_of(of_second), ranges_of(of_whole)
    assert list(ours) == list(theirs)
    for worker, bounds in theirs.items():
        assert all(map(torch.equal, ours[worker], bounds))


@pytest.mark.parametrize("num_workers", [2, 4])
@pytest.mark.parametrize("make", WITH_RANGES, ids=name_of)
@on_ranks(2)
def test_the_files_hold_the_range_of_every_worker(make, num_workers, tmp_path):
    """A checkpoint keeps one copy of what is named alike on several processes."""
    net, optimizer = start(make, num_workers)
    train(net, optimizer, range(3))
    save(net, optimizer, tmp_path)
    (weight, *_), (name, *_) = net.parameters(), dict(net.named_parameters())
    names = [f"max.{worker}" for worker in range(num_workers)]
    metadata = dcp.FileSystemReader(tmp_path).read_metadata().state_dict_metadata
    assert {f"optim.state.{name}.{one}" for one in names} <= set(metadata)
    # Whoever reads them, gets all of them.
    found = {one: torch.zeros_like(weight) for one in names}
    dcp.load({"optim": {"state": {name: found}}}, checkpoint_id=tmp_path)
    for worker, (maximum, _) in ranges_of(optimizer).items():
        its_own = maximum[: weight.numel()].view(weight.shape)
        for one, bound in found.items():
            assert torch.equal(bound, its_own) == (one == f"max.{worker}")


@pytest.mark.parametrize("make", OPTIMIZERS, ids=name_of)
@on_ranks(2)
def test_asking_for_the_state_changes_nothing(make):
    net, optimizer = start(make, 2)
    before = [parameter.clone() for parameter in net.parameters()]
    for _ in range(2):
        state = get_optimizer_state_dict(net, optimizer)
        assert all(map(torch.equal, before, net.parameters()))
        assert optimizer.round == 0
    assert int(next(iter(state["state"].values()))["step"]) == 0
    untouched, its_optimizer = start(make, 2)
    for one, its in ((net, optimizer), (untouched, its_optimizer)):
        train(one, its, range(2))
    assert_equal_weights(net, untouched)


def weights_after(make, rounds, save_in=None, load_from=None):
    net, optimizer = start(make, num_workers=4)
    if load_from is not None:
        load(net, optimizer, load_from)
    train(net, optimizer, rounds)
    if save_in is not None:
        save(net, optimizer, save_in)
    # Tensors would be sent as shared memory, which their sender may close too early.
    return [parameter.detach().numpy() for parameter in net.parameters()]


def train_and_save(name, folder):
    weights_after(getattr(compsgd, name), range(3), save_in=folder)


def go_on(name, folder):
    return weights_after(getattr(compsgd, name), range(3, 6), load_from=folder)


def train_whole(name):
    return weights_after(getattr(compsgd, name), range(6))


@pytest.mark.parametrize(("before", "after"), [(4, 2), (1, 4)])
@pytest.mark.parametrize("make", WITH_RANGES, ids=name_of)
def test_another_number_of_processes_goes_on(rank_pool, make, before, after, tmp_path):
    name = name_of(make)
    (whole,) = rank_pool.call(train_whole, 1, name=name)
    rank_pool.call(train_and_save, before, name=name, folder=tmp_path)
    for weights in rank_pool.call(go_on, after, name=name, folder=tmp_path):
        assert all(map(np.array_equal, weights, whole))


@on_ranks(2)
def test_bin_counts_go_on(tmp_path):
    def start_counting():
        net = model()
        optimizer = compsgd.CompressedSGDVote(
            net.parameters(), 0.01, process_group=dist.group.WORLD, count_usages=True
        )
        return net, optimizer

    net, optimizer = start_counting()
    train(net, optimizer, range(3))
    save(net, optimizer, tmp_path)
    other, of_other = start_counting()
    load(other, of_other, tmp_path)
    assert len(of_other.bin_counts) == 3

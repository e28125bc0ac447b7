"""Every reference vector of the original research code (tests/vectors/README.md)."""

import itertools

import numpy as np
import pytest
import torch
from rounds import empty_range

import compsgd
from compsgd.codec.binning import discretise, discretise_sign, signed, update_range

STEPS, WORKERS = 6, 8
GRID = list(itertools.product(("lin", "exp"), (1, 3), (1.0, 0.5)))


class Replay:
    """Two parameters of the reference's shapes, driven with lr 1 from 0 in every step."""

    def __init__(self, vectors, optimizer, **settings):
        self.grads = [vectors["grads"][f"g{j}"] for j in (0, 1)]
        self.parameters = [torch.zeros(g.shape[2:], requires_grad=True) for g in self.grads]
        self.optimizer = optimizer(self.parameters, lr=1.0, **settings)

    def compress(self, step, stream, worker):
        for parameter, grads in zip(self.parameters, self.grads, strict=True):
            parameter.grad = torch.from_numpy(grads[step, stream])
        self.optimizer.compress(worker)

    def update(self):
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.zero_()
        self.optimizer.step()
        return [-parameter.detach().numpy() for parameter in self.parameters]


FILES = {"exp", "grads", "lin", "partial", "sign", "state", "symbols_exp", "symbols_lin"}


def test_all_vectors_are_here(vectors):
    """They lie in the repository, so nothing here is ever skipped."""
    assert set(vectors) == FILES
    assert all(vectors.values())


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("j", [0, 1])
def test_ranges(vectors, decay, j):
    grads = torch.from_numpy(vectors["grads"][f"g{j}"])
    for worker in range(WORKERS):
        maximum, minimum = empty_range(grads[0, worker].numel())
        for step in range(STEPS):
            update_range(maximum, minimum, grads[step, worker].flatten(), decay, decay)
            for ours, name in ((maximum, "max"), (minimum, "min")):
                expected = vectors["state"][f"{name}{j}_d{decay}"][step, worker]
                np.testing.assert_array_equal(ours.numpy(), expected.ravel())


@pytest.mark.parametrize(("binning", "num_bits", "decay"), GRID)
@pytest.mark.parametrize("j", [0, 1])
def test_symbols(vectors, binning, num_bits, decay, j):
    symbols = vectors[f"symbols_{binning}"]
    prefix = f"b{num_bits}_d{decay}"
    loose = symbols[f"{prefix}_near{j}"] | symbols[f"{prefix}_ftz{j}"]
    assert loose.mean() < 0.5
    flat = [
        torch.from_numpy(x)
        for x in (
            vectors["grads"][f"g{j}"],
            vectors["state"][f"max{j}_d{decay}"],
            vectors["state"][f"min{j}_d{decay}"],
        )
    ]
    ours = signed(*discretise(*flat, num_bits, binning)).numpy()
    difference = np.abs(ours - symbols[f"{prefix}_s{j}"])
    assert difference[~loose].max() == 0
    assert difference.max() <= 1


@pytest.mark.parametrize("j", [0, 1])
def test_signs(vectors, j):
    grads = torch.from_numpy(vectors["grads"][f"g{j}"])
    assert np.array_equal(signed(*discretise_sign(grads)).numpy(), vectors["sign"][f"s{j}"])
    deterministic = vectors["sign"][f"det{j}"]
    for step, worker in itertools.product(range(STEPS), range(WORKERS)):
        parameter = torch.zeros(grads.shape[2:], requires_grad=True)
        parameter.grad = grads[step, worker]
        compsgd.SignSGD([parameter], lr=1.0).step()
        update = -parameter.detach().numpy()
        expected = vectors["sign"][f"s{j}"][step, worker]
        where = deterministic[step, worker]
        assert np.array_equal(update[where], expected[where])
        assert set(np.abs(update).ravel()) == {1.0}


def loose_updates(vectors, binning, num_bits, decay, streams, j):
    """Where an edge of a bin or a flushed denormal may move a ballot of one of the streams."""
    symbols = vectors[f"symbols_{binning}"]
    masks = [symbols[f"b{num_bits}_d{decay}_{kind}{j}"] for kind in ("near", "ftz")]
    return (masks[0] | masks[1])[:, streams].any(axis=1)


def assert_updates(update, expected, loose):
    difference = np.abs(update - expected)
    assert difference[~loose].max(initial=0) == 0
    assert difference.max() <= 1


@pytest.mark.parametrize(("binning", "num_bits", "decay"), GRID)
@pytest.mark.parametrize("optimizer", [compsgd.CompressedSGD, compsgd.CompressedSGDVote])
def test_single_worker(vectors, optimizer, binning, num_bits, decay):
    replay = Replay(
        vectors,
        optimizer,
        num_bits=num_bits,
        binning=binning,
        decay_min=decay,
        decay_max=decay,
        rand_zero=False,
        count_usages=True,
    )
    key = f"single_b{num_bits}_d{decay}"
    for step in range(STEPS):
        replay.compress(step, 0, 0)
        for j, update in enumerate(replay.update()):
            loose = loose_updates(vectors, binning, num_bits, decay, [0], j)
            assert_updates(update, vectors[binning][f"{key}_u{j}"][step], loose[step])
    assert_counts(replay, vectors[binning][f"{key}_counts"])


@pytest.mark.parametrize(("binning", "num_bits", "decay"), GRID)
def test_vote_of_three(vectors, binning, num_bits, decay):
    replay = Replay(
        vectors,
        compsgd.CompressedSGDVote,
        num_bits=num_bits,
        binning=binning,
        decay_min=decay,
        decay_max=decay,
        rand_zero=False,
        count_usages=True,
        num_workers=3,
    )
    key = f"vote3_b{num_bits}_d{decay}"
    for step in range(STEPS):
        for worker in range(3):
            replay.compress(step, worker, worker)
        for j, update in enumerate(replay.update()):
            loose = loose_updates(vectors, binning, num_bits, decay, [0, 1, 2], j)
            assert_updates(update, vectors[binning][f"{key}_u{j}"][step], loose[step])
    assert_counts(replay, vectors[binning][f"{key}_counts"])


def assert_counts(replay, expected):
    counts = np.stack(replay.optimizer.bin_counts)
    assert counts.dtype == np.int64
    assert np.array_equal(counts.sum(axis=1), expected.sum(axis=1))
    # An element in the margin of a bin edge may stand in the neighbouring column.
    assert np.abs(counts - expected).max() <= 4


@pytest.mark.parametrize("binning", ["lin", "exp"])
@pytest.mark.parametrize("decay", [1.0, 0.9, 0.5])
def test_partial_participation(vectors, binning, decay):
    replay = Replay(
        vectors,
        compsgd.CompressedSGDVote,
        num_bits=3,
        binning=binning,
        decay_min=decay,
        decay_max=decay,
        rand_zero=False,
        num_workers=4,
    )
    partial = vectors["partial"]
    for step in range(STEPS):
        voters = [int(worker) for worker in partial["partial_plan"][step] if worker >= 0]
        for worker in voters:
            replay.compress(step, worker, worker)
        updates = replay.update()
        assert replay.optimizer.participants == tuple(sorted(voters))
        for j, update in enumerate(updates):
            expected = partial[f"partial_{binning}_b3_d{decay}_u{j}"][step]
            if decay in (1.0, 0.5):
                loose = loose_updates(vectors, binning, 3, decay, voters, j)[step]
            else:
                loose = np.full(expected.shape, binning == "exp")
            assert_updates(update, expected, loose)
        for worker in range(4):
            bounds = replay.optimizer.worker_range(worker)
            for ours, name in zip(bounds, ("max", "min"), strict=True):
                expected = np.concatenate(
                    [partial[f"partial_{name}{j}_d{decay}"][step, worker].ravel() for j in (0, 1)]
                )
                np.testing.assert_array_equal(ours.numpy(), expected)

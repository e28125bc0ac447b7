"""Chunks between processes: the same weights and the same bytes, however a vector is cut."""

import pytest
import torch
import torch.distributed as dist
import wide_training
from ranks import on_ranks
from torch.nn.parallel import DistributedDataParallel
from wide_training import train

import compsgd
from compsgd.comm import Purpose, register_vote_hook
from compsgd.voting import chunks
from compsgd.voting.aggregator import LevelAggregator

pytestmark = pytest.mark.heavy
EXCHANGES = ["all_gather", "scatter_reduce"]
# In units of 4096 elements for each of up to three workers; the last chunk is not whole.
WIDTH, HEIGHT = 300, 301


def model():
    return wide_training.model(WIDTH, HEIGHT)


def assert_the_same(found):
    """Weights and bytes, by number of chunks."""
    first, *others = found
    for one in others:
        assert one[1] == first[1] > 0
        assert all(map(torch.equal, one[0], first[0]))


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    ("make", "choices"),
    [
        (compsgd.CompressedSGDVote, {"momentum": 0.9, "error_feedback": True}),
        (compsgd.CompressedSGDVote, {"rand_zero": False, "verify_fraction": 1.0}),
        (compsgd.CompressedSGD, {"exempt_1d": True}),
        (compsgd.SignSGD, {}),
    ],
)
@on_ranks(3)
def test_optimizers(make, choices, exchange):
    found = []
    for num_chunks in (1, 5):
        net = model()
        optimizer = make(
            net.parameters(), 0.01, process_group=dist.group.WORLD, exchange=exchange,
            num_chunks=num_chunks, check_every=2, **choices,
        )  # fmt: skip
        weights = train(net, optimizer)
        assert isinstance(optimizer.aggregator, LevelAggregator)
        assert (len(optimizer.aggregator.chunks) > 2) == (num_chunks > 1)
        found.append((weights, optimizer.exchange.ledger.wire[Purpose.GRADIENT].sent_bytes))
    assert_the_same(found)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("bucket_cap_mb", [0.1, 25])
@on_ranks(3)
def test_the_hook(bucket_cap_mb, exchange):
    found = []
    for num_chunks in (1, 5):
        net = DistributedDataParallel(model(), bucket_cap_mb=bucket_cap_mb)
        state = register_vote_hook(
            net, scale="mean_abs", momentum=0.9, exempt_1d=True, exchange=exchange,
            num_chunks=num_chunks, check_every=2,
        )  # fmt: skip
        weights = train(net, torch.optim.AdamW(net.parameters(), 0.01, betas=(0.0, 0.99)))
        found.append((weights, state.bytes_per_step))
    assert_the_same(found)


@on_ranks(2)
def test_the_aggregator():
    found = []
    for num_chunks in (1, 5):
        net = model()
        aggregator = compsgd.VoteAggregator(
            net.parameters(), scale="mean_abs", momentum=0.9, num_chunks=num_chunks
        )
        sgd = torch.optim.SGD(net.parameters(), 0.01)
        sgd.register_step_pre_hook(lambda *_, one=aggregator: one.aggregate())
        found.append((train(net, sgd), aggregator.bytes_per_step))
    assert_the_same(found)


@pytest.mark.parametrize("compresses_before", [False, True])
@on_ranks(2)
def test_all_decide_alike_how_many(compresses_before):
    """Measured in the first step, which a ballot that is cast already gets over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_CHUNK_S", 1e-12)
        assert_the_same(decided(compresses_before))


def decided(compresses_before):
    """Weights and bytes, with as many chunks as pay, and with one."""
    found = []
    for num_chunks in (None, 1):
        net = model()
        optimizer = compsgd.CompressedSGDVote(
            net.parameters(), 0.01, process_group=dist.group.WORLD, num_chunks=num_chunks
        )
        if compresses_before and dist.get_rank() == 0:
            original = optimizer.step

            def step(original=original, optimizer=optimizer):
                optimizer.compress()
                original()

            optimizer.step = step
        weights = train(net, optimizer)
        assert (len(optimizer.aggregator.chunks) > 1) == (num_chunks is None)
        found.append((weights, optimizer.exchange.ledger.wire[Purpose.GRADIENT].sent_bytes))
    return found

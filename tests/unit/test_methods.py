"""The model of each method against a plain statement of it."""

from dataclasses import replace

import pytest

from compsgd.comm.traffic.cost import StepCost, ring_all_reduce
from compsgd.workers.prediction.links import Link
from compsgd.workers.prediction.machine import USUAL, Machine, VoteSpeed
from compsgd.workers.prediction.methods import Cluster, all_reduce, vote

NUMEL = 4_000_000
BITS_PER_S, LATENCY_S = 1e8, 1e-3
PAYLOAD = 1448 / 1514
NOTHING = Machine(dict.fromkeys(range(1, 9), VoteSpeed(0, 0, 0)), 0, 0, 0, 0, 0, 0)


def cluster(num_workers=4, per_host=1, machine=NOTHING, compute_s=0.0, latency_s=LATENCY_S):
    inner = Link(1e10, latency_s / 10)
    return Cluster(
        num_workers, per_host, Link(BITS_PER_S, latency_s), inner, machine, compute_s
    )  # fmt: skip


def seconds(num_bytes):
    return num_bytes * 8 / BITS_PER_S / PAYLOAD


def test_bytes_are_those_that_the_ledger_counts():
    cost = StepCost(NUMEL, 2, 3, zeros=False)
    for exchange in ("all_gather", "scatter_reduce"):
        found = vote(cluster(), NUMEL, 2, 3, exchange)
        assert found.sent_bytes == getattr(cost, exchange)(4)
    assert all_reduce(cluster(), NUMEL, "float32", 4).sent_bytes == ring_all_reduce(NUMEL, 4)
    assert all_reduce(cluster(), NUMEL, "16", 2).sent_bytes == ring_all_reduce(NUMEL, 4) // 2


@pytest.mark.parametrize("num_workers", [2, 4, 7])
def test_without_computing_and_latency_a_step_takes_what_its_bytes_do(num_workers):
    where = cluster(num_workers, latency_s=0.0)
    for method in (
        all_reduce(where, NUMEL, "float32", 4),
        all_reduce(where, NUMEL, "16 bits", 2),
        vote(where, NUMEL, 1, 3, "all_gather"),
        vote(where, NUMEL, 1, 1, "scatter_reduce"),
    ):
        assert method.step_s == pytest.approx(seconds(method.sent_bytes), rel=1e-3)


def test_a_ring_waits_at_every_worker_and_a_tree_at_every_level():
    def waiting_s(num_workers):
        with_latency = all_reduce(cluster(num_workers), 1000, "float32", 4).step_s
        return with_latency - all_reduce(cluster(num_workers, latency_s=0), 1000, "", 4).step_s

    assert waiting_s(2) == pytest.approx(2 * LATENCY_S)
    assert waiting_s(100) == pytest.approx(2 * 7 * LATENCY_S)


def test_a_vote_waits_once_or_twice():
    plain = replace(cluster(), link=Link(BITS_PER_S, 0.0))
    for exchange, count in (("all_gather", 1), ("scatter_reduce", 2)):
        waiting_s = vote(cluster(), 1000, 1, 3, exchange).step_s
        assert waiting_s - vote(plain, 1000, 1, 3, exchange).step_s == pytest.approx(
            count * LATENCY_S
        )


def test_in_one_piece_its_stages_come_one_behind_the_other():
    where = cluster(2, machine=USUAL)
    numel = 1000  # too short for chunks
    speed, found = USUAL.votes[3], vote(where, numel, 1, 3, "scatter_reduce")
    computing_s = 2 * USUAL.copy_s + speed.encode_s + speed.count_s + speed.decode_s
    waiting_s = 2 * (LATENCY_S + USUAL.message_s)
    travelling_s = seconds(found.sent_bytes)
    assert found.step_s == pytest.approx(numel * computing_s + waiting_s + travelling_s)


def test_chunks_hide_computing_behind_travelling():
    slow = replace(USUAL.slowed(20), socket_s=0.0, message_s=0.0)
    where = cluster(2, machine=slow, latency_s=0.0)
    found, speed = vote(where, NUMEL, 1, 8, "scatter_reduce"), slow.votes[8]
    computing_s = NUMEL * (2 * slow.copy_s + speed.encode_s + speed.count_s + speed.decode_s)
    travelling_s = seconds(found.sent_bytes)
    longer_s = max(computing_s, travelling_s)
    assert longer_s < found.step_s < 0.8 * (computing_s + travelling_s)


def test_backward_hides_all_buckets_but_the_last():
    numel = 4 * 25 * (1 << 20) // 4  # four buckets
    alone_s = all_reduce(cluster(), numel, "float32", 4).step_s
    long_s = 100 * alone_s
    step_s = all_reduce(cluster(compute_s=long_s), numel, "float32", 4).step_s
    assert step_s == pytest.approx(long_s + alone_s / 4, rel=1e-6)


def test_hosts_are_crossed_by_a_ring_once_and_by_a_direct_exchange_from_each_worker():
    ring = all_reduce(cluster(8, 4, latency_s=0.0), NUMEL, "float32", 4)
    assert ring.step_s == pytest.approx(seconds(ring.sent_bytes), rel=1e-3)
    ours = vote(cluster(8, 4, latency_s=0.0), NUMEL, 1, 3, "all_gather")
    # To 4 of 7 others by the host's link, which 4 share.
    assert ours.step_s == pytest.approx(seconds(ours.sent_bytes * 4 / 7 * 4), rel=1e-3)


def test_on_one_host_nothing_goes_out():
    found = vote(cluster(4, 4, latency_s=0.0), NUMEL, 1, 3, "scatter_reduce")
    assert found.step_s < seconds(found.sent_bytes) / 50


def test_the_processor_may_be_slower_than_the_link():
    machine = replace(NOTHING, socket_s=1e-6, all_reduce_s=2e-6)
    where = replace(cluster(2, machine=machine, latency_s=0.0), link=Link(1e12, 0.0))
    assert all_reduce(where, NUMEL, "float32", 4).step_s == pytest.approx(4 * NUMEL * 2e-6)
    found = vote(where, NUMEL, 1, 3, "all_gather")
    assert found.step_s == pytest.approx(found.sent_bytes * 1e-6, rel=1e-3)


def test_between_hosts_sums_travel_instead_of_ballots():
    where = cluster(8, 4, latency_s=0.0)
    inside, between = StepCost(NUMEL, 1, 3, zeros=False).hierarchical(8, 4)
    found = vote(where, NUMEL, 1, 3, "hierarchical")
    assert found.sent_bytes == pytest.approx(inside + between, abs=2)
    assert found.step_s == pytest.approx(seconds(between * 4), rel=0.05)
    assert found.step_s < 0.4 * vote(where, NUMEL, 1, 3, "scatter_reduce").step_s


@pytest.mark.parametrize("per_host", [1, 4])
def test_with_one_level_hierarchical_is_scatter_reduce(per_host):
    found = [
        vote(cluster(4, per_host), NUMEL, 1, 3, one) for one in ("hierarchical", "scatter_reduce")
    ]
    assert found[0].step_s == found[1].step_s


@pytest.mark.parametrize("bits_per_s", [1e9, 1e11])
@pytest.mark.parametrize("exchange", ["all_gather", "scatter_reduce"])
def test_of_many_buckets_the_last_tell_the_rest(exchange, bits_per_s, monkeypatch):
    """The processor is what takes longest on the fast link, and the link on the slow one."""
    where = replace(cluster(8, machine=USUAL, compute_s=20.0), link=Link(bits_per_s, 1e-4))
    numel = 200 * 6_553_600 + 12_345
    methods = (
        lambda: vote(where, numel, 1, 3, exchange).step_s,
        lambda: all_reduce(where, numel, "float32", 4).step_s,
    )
    told = [method() for method in methods]
    monkeypatch.setattr("compsgd.workers.prediction.methods._FOLLOWED", 1000)
    assert told == pytest.approx([method() for method in methods], rel=0.01)

"""Ways to combine gradients as a model of time (alpha-beta, with computing): what each computes,
what it sends, and how both overlap with backward and with each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from compsgd.comm.traffic.cost import StepCost, ring_all_reduce
from compsgd.voting.chunks import best_num_chunks
from compsgd.workers.prediction.links import Link
from compsgd.workers.prediction.machine import Machine, VoteSpeed
from compsgd.workers.prediction.pipeline import Stage, finish_s

FLOAT32, SIXTEEN_BITS = "float32", "16 bits"
# What an entropy coder leaves, by num_bits (docs/measurements/entropy.md).
CODED_SHARES = {2: 0.7, 3: 0.66, 4: 0.6, 8: 0.6}
# DistributedDataParallel's own.
_BUCKET_BYTES = 25 * (1 << 20)
_FLOAT_BYTES = 4
# Backward takes twice as long as forward.
_FORWARD = 1 / 3
# So many buckets are followed one by one: 400 MB of gradients.
_FOLLOWED = 16
_CORE, _LINK, _INNER = "core", "link", "inner link"

Jobs: TypeAlias = Sequence[Sequence[Stage]]


@dataclass(frozen=True)
class Cluster:
    """Workers, what is between them, and what a step takes without communication.

    Attributes:
        num_workers: N.
        workers_per_host: those that share a host's link; divides N.
        link: of a host.
        inner: between the workers of a host, of each.
        machine: how fast a worker is.
        compute_s: forward and backward.
    """

    num_workers: int
    workers_per_host: int
    link: Link
    inner: Link
    machine: Machine
    compute_s: float

    @property
    def num_hosts(self) -> int:
        return self.num_workers // self.workers_per_host


@dataclass(frozen=True)
class Traffic:
    """One phase of a collective.

    Attributes:
        sent_bytes: by a worker.
        outer_bytes: of those of all workers of a host, what goes to other hosts.
        inner_bytes: of those of a worker, what stays on its host.
        num_messages: of a worker, one behind the other.
        num_latencies: that are waited for, one behind the other.
    """

    sent_bytes: float
    outer_bytes: float
    inner_bytes: float
    num_messages: int
    num_latencies: int

    def part(self, share: float) -> "Traffic":
        """The same with so much less in each message."""
        return replace(
            self,
            sent_bytes=self.sent_bytes * share,
            outer_bytes=self.outer_bytes * share,
            inner_bytes=self.inner_bytes * share,
        )


@dataclass(frozen=True)
class Method:
    """A way to combine gradients.

    Attributes:
        name: in tables.
        sent_bytes: by one worker in a step.
        step_s: from the beginning of forward to the last gradient.
    """

    name: str
    sent_bytes: int
    step_s: float


# What the field uses.


def all_reduce(cluster: Cluster, numel: int, name: str, element_bytes: int) -> Method:
    """DistributedDataParallel's: bucket behind bucket, by a ring or a double tree, whichever takes
    less. Hosts are crossed once in either direction, as NCCL does.

    Args:
        numel: elements of all gradients.
        name: of the method.
        element_bytes: 4, or 2, to which they are cast first.
    """
    machine, num_workers = cluster.machine, cluster.num_workers
    is_cast = element_bytes < _FLOAT_BYTES
    prepare_s = machine.copy_s + (machine.cast_s / 2 if is_cast else 0.0)
    adding_s = machine.all_reduce_16_s if is_cast else machine.all_reduce_s

    def jobs_of(size: int) -> Jobs:
        sent_bytes = ring_all_reduce(size, num_workers) * element_bytes // _FLOAT_BYTES
        crossing = sent_bytes if cluster.num_hosts > 1 else 0
        staying = sent_bytes if cluster.workers_per_host > 1 else 0
        # A ring, and a double tree.
        counts = (2 * (num_workers - 1), 2 * math.ceil(math.log2(num_workers)))
        ways = [Traffic(sent_bytes, crossing, staying, count, count) for count in counts]
        travel = min((_travel(cluster, way, adding_s) for way in ways), key=_seconds)
        core = Stage(_CORE, size * prepare_s)
        return [[_backward(cluster, size / numel), core, *travel, core]]

    total_bytes = ring_all_reduce(numel, num_workers) * element_bytes // _FLOAT_BYTES
    return Method(name, total_bytes, _step_s(cluster, numel, jobs_of))


# Ours.


@dataclass(frozen=True)
class Count:
    """Counting between two phases.

    Attributes:
        ballots: that a worker counts, as if each were as long as the whole vector.
    """

    ballots: float


def _all_gather(cluster: Cluster, cost: StepCost) -> list[Traffic | Count]:
    num_workers = cluster.num_workers
    return [_direct(cluster, cost.all_gather(num_workers)), Count(num_workers)]


def _scatter_reduce(cluster: Cluster, cost: StepCost) -> list[Traffic | Count]:
    half = _direct(cluster, cost.scatter_reduce(cluster.num_workers) / 2)
    return [half, Count(1.0), half]


def _hierarchical(cluster: Cluster, cost: StepCost) -> list[Traffic | Count]:
    per_host, num_hosts = cluster.workers_per_host, cluster.num_hosts
    if per_host == 1 or num_hosts == 1:
        return _scatter_reduce(cluster, cost)
    inside, between = cost.hierarchical(cluster.num_workers, per_host)
    inner = Traffic(inside / 2, 0.0, inside / 2, per_host - 1, 1)
    outer = Traffic(between / 2, between / 2 * per_host, 0.0, num_hosts - 1, 1)
    # A worker adds up a shard of its host's ballots, and then a part of that of every host's sums.
    return [inner, Count(1.0), outer, Count(1 / per_host), outer, inner]


# What an exchange does between encoding and decoding.
EXCHANGES: dict[str, Callable[[Cluster, StepCost], list[Traffic | Count]]] = {
    "all_gather": _all_gather,
    "scatter_reduce": _scatter_reduce,
    "hierarchical": _hierarchical,
}


def vote(
    cluster: Cluster,
    numel: int,
    num_tensors: int,
    num_bits: int,
    exchange: str,
    *,
    coded_share: float | None = None,
) -> Method:
    """The DDP hook's, in as many chunks as it takes by itself.

    Args:
        numel: elements of all gradients.
        num_tensors: of so many parameters.
        num_bits: of a level.
        exchange: one of EXCHANGES.
        coded_share: what an entropy coder leaves of packed codes; None for none.
    """
    speed, copy_s = cluster.machine.votes[num_bits], cluster.machine.copy_s
    phases = EXCHANGES[exchange](cluster, StepCost(numel, num_tensors, num_bits, zeros=False))
    if coded_share is not None:
        speed = _with_coder(speed)
        phases = [one.part(coded_share) if isinstance(one, Traffic) else one for one in phases]
    ways = [one for one in phases if isinstance(one, Traffic)]

    def jobs_of(size: int) -> Jobs:
        bucket = size / numel
        travel_s = sum(_seconds(_travel(cluster, one.part(bucket))) for one in ways)
        num_chunks = best_num_chunks(size, travel_s)
        chunk = bucket / num_chunks
        encode = Stage(_CORE, chunk * numel * (copy_s + speed.encode_s))
        decode = Stage(_CORE, chunk * numel * (copy_s + speed.decode_s))
        coding = [encode]
        for one in phases:
            if isinstance(one, Count):
                coding.append(Stage(_CORE, chunk * numel * one.ballots * speed.count_s))
            else:
                coding += _travel(cluster, one.part(chunk))
        coding.append(decode)
        return [[_backward(cluster, bucket), *coding]] + [coding] * (num_chunks - 1)

    coded = "" if coded_share is None else ", coded"
    name = f"{num_bits} bit{'s' if num_bits > 1 else ''}, {exchange}{coded}"
    sent_bytes = round(sum(one.sent_bytes for one in ways))
    return Method(name, sent_bytes, _step_s(cluster, numel, jobs_of))


def _with_coder(speed: VoteSpeed) -> VoteSpeed:
    """Ballots are made smaller before they travel, and larger where they are counted, and so are
    results, of which a worker has few of its own."""
    return replace(
        speed,
        encode_s=speed.encode_s + speed.shrink_s,
        count_s=speed.count_s + speed.grow_s,
        decode_s=speed.decode_s + speed.grow_s,
    )


# Both.


def _buckets(numel: int) -> list[int]:
    size = _BUCKET_BYTES // _FLOAT_BYTES
    return [min(size, numel - start) for start in range(0, numel, size)]


def _backward(cluster: Cluster, share: float) -> Stage:
    return Stage(_CORE, (1 - _FORWARD) * cluster.compute_s * share)


def _step_s(cluster: Cluster, numel: int, jobs_of: Callable[[int], Jobs]) -> float:
    """Forward, and then bucket behind bucket. Of very many buckets the last few are followed:
    before them the pipeline is full, and one takes as long as the next.

    Args:
        numel: elements of all gradients.
        jobs_of: what is to be done with a bucket of so many elements.
    """
    sizes = _buckets(numel)
    buckets = [jobs_of(size) for size in sizes[-_FOLLOWED:]]
    seconds = finish_s(list(chain(*buckets)))
    if len(sizes) > len(buckets):
        half = _FOLLOWED // 2
        a_half_s = seconds - finish_s(list(chain(*buckets[half:])))
        seconds += (len(sizes) - len(buckets)) * a_half_s / half
    return _FORWARD * cluster.compute_s + seconds


def _direct(cluster: Cluster, sent_bytes: float) -> Traffic:
    """From each to each at once, equally much."""
    peers = cluster.num_workers - 1
    outside = cluster.num_workers - cluster.workers_per_host
    to_others = sent_bytes * outside / max(peers, 1)
    outer_bytes = to_others * cluster.workers_per_host
    return Traffic(sent_bytes, outer_bytes, sent_bytes - to_others, peers, 1)


def _travel(cluster: Cluster, traffic: Traffic, adding_s: float = 0.0) -> list[Stage]:
    """What the processor does to send and to receive, and what the link takes beyond that: it
    carries one packet while the next one is copied.

    Args:
        adding_s: where what is received is added up, a byte.
    """
    machine, is_outer = cluster.machine, traffic.outer_bytes > 0
    copying_s = traffic.sent_bytes * max(adding_s, machine.socket_s)
    moving_s = max(
        cluster.link.travel_s(traffic.outer_bytes), cluster.inner.travel_s(traffic.inner_bytes)
    )
    latency_s = (cluster.link if is_outer else cluster.inner).latency_s
    waiting_s = traffic.num_latencies * latency_s + traffic.num_messages * machine.message_s
    beyond_s = max(moving_s - copying_s, 0.0) + waiting_s
    return [Stage(_CORE, copying_s), Stage(_LINK if is_outer else _INNER, beyond_s)]


def _seconds(stages: Sequence[Stage]) -> float:
    return sum(one.seconds for one in stages)

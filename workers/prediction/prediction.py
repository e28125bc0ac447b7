"""Predicted steps side by side, and up to which bandwidth a vote pays."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from compsgd.workers.prediction.links import Link
from compsgd.workers.prediction.methods import (
    CODED_SHARES,
    FLOAT32,
    SIXTEEN_BITS,
    Cluster,
    Method,
    all_reduce,
    vote,
)

# Bandwidths among which the break-even one is looked for.
_SLOWEST, _FASTEST = 1e4, 1e13
_TRIED, _HALVINGS = 72, 30
_SLOWEST_DRAWN, _FASTEST_DRAWN, _DRAWN = 1e7, 1e11, 80


@dataclass(frozen=True)
class Gradients:
    """What is combined.

    Attributes:
        numel: elements of all parameters.
        num_tensors: of so many parameters.
    """

    numel: int
    num_tensors: int = 1


@dataclass(frozen=True)
class Vote:
    """
    Attributes:
        num_bits: of a level.
        exchange: how it travels.
        is_coded: whether through the entropy coder.
    """

    num_bits: int
    exchange: str
    is_coded: bool = False


@dataclass(frozen=True)
class Prediction:
    """One method in a cluster.

    Attributes:
        method: what it takes.
        over_float32, over_sixteen_bits: how many times as fast a step is.
        pays_below, pays_below_sixteen_bits: bits a second of hosts' links, below which a step is
            faster than with float32 or 16 bits; 0 for never, infinite for always. None for what it
            is compared with.
    """

    method: Method
    over_float32: float
    over_sixteen_bits: float
    pays_below: float | None = None
    pays_below_sixteen_bits: float | None = None


def votes(
    num_bits: Sequence[int], exchanges: Sequence[str], codings: Sequence[bool] = (False,)
) -> list[Vote]:
    """All combinations, but for those that an entropy coder leaves as they are."""
    every = itertools.product(num_bits, exchanges, codings)
    return [Vote(*one) for one in every if one[0] in CODED_SHARES or not one[2]]


def predict(cluster: Cluster, gradients: Gradients, votes: Sequence[Vote]) -> list[Prediction]:
    """Float32, 16 bits, and votes.

    Args:
        cluster: where.
        gradients: of what.
        votes: which.
    """
    float32, sixteen_bits = baselines(cluster, gradients)
    found = [
        Prediction(one, float32.step_s / one.step_s, sixteen_bits.step_s / one.step_s)
        for one in (float32, sixteen_bits)
    ]
    return found + [_prediction(cluster, gradients, one) for one in votes]


def baselines(cluster: Cluster, gradients: Gradients) -> tuple[Method, Method]:
    """What DistributedDataParallel does by itself, and with a 16-bit hook."""
    return (
        all_reduce(cluster, gradients.numel, FLOAT32, 4),
        all_reduce(cluster, gradients.numel, SIXTEEN_BITS, 2),
    )


def _prediction(cluster: Cluster, gradients: Gradients, one: Vote) -> Prediction:
    def saved_s(other: int) -> Callable[[float], float]:
        def seconds(bits_per_s: float) -> float:
            there = replace(cluster, link=Link(bits_per_s, cluster.link.latency_s))
            own = _method(there, gradients, one)
            return baselines(there, gradients)[other].step_s - own.step_s

        return seconds

    own = _method(cluster, gradients, one)
    float32, sixteen_bits = baselines(cluster, gradients)
    return Prediction(
        own,
        float32.step_s / own.step_s,
        sixteen_bits.step_s / own.step_s,
        *(break_even(saved_s(other)) for other in range(2)),
    )


def _method(cluster: Cluster, gradients: Gradients, one: Vote) -> Method:
    return vote(
        cluster, gradients.numel, gradients.num_tensors, one.num_bits, one.exchange,
        coded_share=CODED_SHARES[one.num_bits] if one.is_coded else None,
    )  # fmt: skip


def over_bandwidths(
    cluster: Cluster, gradients: Gradients, votes: Sequence[Vote]
) -> dict[str, list[tuple[float, float]]]:
    """(bits a second, seconds of a step) for links of all sorts, by method."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for rate in rates_between(_SLOWEST_DRAWN, _FASTEST_DRAWN, _DRAWN):
        there = replace(cluster, link=Link(rate, cluster.link.latency_s))
        methods = [*baselines(there, gradients)]
        methods += [_method(there, gradients, one) for one in votes]
        for method in methods:
            lines.setdefault(method.name, []).append((rate, method.step_s))
    return lines


def break_even(saved_s: Callable[[float], float]) -> float:
    """The bandwidth up to which something is saved; 0 for nothing on the slowest of links, infinite
    for something on the fastest, too.

    Args:
        saved_s: seconds, of bits a second.
    """
    rates = rates_between(_SLOWEST, _FASTEST, _TRIED)
    first = next((number for number, rate in enumerate(rates) if saved_s(rate) <= 0), None)
    if first is None:
        return math.inf
    if first == 0:
        return 0.0
    low, high = rates[first - 1], rates[first]
    for _ in range(_HALVINGS):
        between = math.sqrt(low * high)
        low, high = (between, high) if saved_s(between) > 0 else (low, between)
    return low


def rates_between(slowest: float, fastest: float, num_steps: int) -> list[float]:
    """Bandwidths with equal ratios, num_steps + 1 of them."""
    ratio = fastest / slowest
    return [slowest * float(ratio ** (number / num_steps)) for number in range(num_steps + 1)]

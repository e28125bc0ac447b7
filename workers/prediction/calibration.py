"""Measures a machine: what the DDP hook computes, and what sending takes without a network."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from compsgd.codec.alphabet import ballot_alphabet, levels_to_codes
from compsgd.codec.base import CodecSpec
from compsgd.codec.blocks import packed_size
from compsgd.codec.combine import VOTE
from compsgd.codec.compiling import Work
from compsgd.codec.entropy import EntropyCoder, new_buffer
from compsgd.codec.registry import codec_for
from compsgd.comm.parameters import ParamGradient, Place
from compsgd.comm.stretch_vote import StretchVote
from compsgd.layout import FlatLayout, Workspace
from compsgd.settings import VoteSettings
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.encoder import WorkerEncoder
from compsgd.workers.bench.measurements import EchoExchange
from compsgd.workers.data.datasets import IMAGE_FORMATS
from compsgd.workers.prediction.machine import Machine, VoteSpeed
from compsgd.workers.train.models import build_model

_CPU = torch.device("cpu")
_REPEATS = 7
_MESSAGE_NUMEL = 1
_TIMEOUT = timedelta(seconds=60)
_FEW, _MANY = 1, 5
_NUM_LOOPBACK = 2


def calibrate(num_bits: Sequence[int], numel: int) -> Machine:
    """This machine, with one thread.

    Args:
        num_bits: of the votes that are measured.
        numel: elements of what is measured; as many as in a vote, since what fits into a cache is
            faster.
    """
    with _one_thread():
        votes = {bits: _vote_speed(bits, numel) for bits in num_bits}
        values, others = torch.ones(numel), torch.ones(numel)
        half = torch.ones(numel, dtype=torch.bfloat16)
        return Machine(
            votes,
            copy_s=_seconds(lambda: values.copy_(others)) / numel,
            cast_s=_seconds(lambda: values.copy_(half.copy_(values))) / numel,
            **_sending(numel),
        )


def model_step_s(model: str, dataset: str, batch_size: int) -> float:
    """Forward, backward and update of a model on random images, with one thread.

    Args:
        model: one of IMAGE_MODELS.
        dataset: whose images it is made for.
        batch_size: of a step.
    """
    format = IMAGE_FORMATS[dataset]
    net = build_model(model, format, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    images = torch.randn(batch_size, *format.shape)
    labels = torch.randint(format.num_classes, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

    with _one_thread():
        return _seconds(step)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _vote_speed(num_bits: int, numel: int) -> VoteSpeed:
    """With the settings that are recommended for the hook."""
    settings = VoteSettings(num_bits=num_bits, momentum=0.9, decay_min=0.99, decay_max=0.99)
    generator = torch.Generator().manual_seed(0)
    gradient = ParamGradient(
        torch.randn(numel, generator=generator), Place(True, 0), is_present=True
    )
    encode_s, few_s = _vote_seconds(settings, gradient, _FEW)
    _, many_s = _vote_seconds(settings, gradient, _MANY)
    count_s = max(many_s - few_s, 0.0) / (_MANY - _FEW)
    decode_s = max(few_s - _FEW * count_s, 0.0)
    found = (encode_s, count_s, decode_s, *_coder_seconds(settings, numel))
    return VoteSpeed(*(seconds / numel for seconds in found))


def _coder_seconds(settings: VoteSettings, numel: int) -> tuple[float, float]:
    """Of packed codes through the entropy coder, and back; how frequent levels are makes little
    difference."""
    alphabet = ballot_alphabet(settings.num_bits, not settings.rand_zero)
    if not EntropyCoder.suits(alphabet):
        return 0.0, 0.0
    sizes = torch.randn(numel).abs().mul(alphabet.largest / 3).ceil().clamp(1, alphabet.largest)
    codes = levels_to_codes((sizes * torch.randn(numel).sign()).int(), alphabet)
    packed = torch.empty(packed_size(numel, alphabet), dtype=torch.uint8)
    codec_for(CodecSpec(alphabet, None, _CPU.type, "native", True)).pack(packed, codes)
    coder = EntropyCoder(alphabet)
    coded = new_buffer(packed.numel() + coder.extra_bytes(packed.numel()))
    shrink_s = _seconds(lambda: coder.encode(coded, packed, numel))
    return shrink_s, _seconds(lambda: coder.decode(packed, coded, numel))


def _vote_seconds(
    settings: VoteSettings, gradient: ParamGradient, num_ballots: int
) -> tuple[float, float]:
    """Of encoding, and of all the rest with so many ballots."""
    aggregator = _aggregator(settings, gradient.values.numel(), num_ballots)
    workspace = Workspace()
    times = []
    for round_ in range(_REPEATS + 1):
        vote = StretchVote([gradient], aggregator, None, round_)
        began = time.perf_counter()
        vote.send(_CPU, workspace)
        sent = time.perf_counter()
        vote.count()
        vote.write()
        times.append((sent - began, time.perf_counter() - sent))
    encode_s, rest_s = zip(*times[1:], strict=True)
    return statistics.median(encode_s), statistics.median(rest_s)


def _aggregator(settings: VoteSettings, numel: int, num_ballots: int) -> LevelAggregator:
    encoder = WorkerEncoder.fresh(numel, _CPU, settings)
    alphabet = ballot_alphabet(settings.num_bits, not settings.rand_zero)
    return LevelAggregator(
        FlatLayout([numel]),
        [encoder],
        Work(alphabet, settings.binning, VOTE, _CPU.type),
        EchoExchange(num_ballots),
        settings,
        _CPU,
        carries_magnitudes=True,
    )


def _sending(numel: int) -> dict[str, float]:
    """Between two ranks over loopback: two threads of this process."""
    ranks = _ranks()
    blocks = [torch.zeros(numel, dtype=torch.uint8) for _ in ranks]
    received = [torch.zeros(numel, dtype=torch.uint8) for _ in ranks]

    def swap(size: int) -> None:
        """Each sends to the other."""
        works = []
        for rank, one in enumerate(ranks):
            works.append(one.send([blocks[rank][:size]], 1 - rank, rank))
            works.append(one.recv([received[rank][:size]], 1 - rank, 1 - rank))
        for work in works:
            work.wait()

    def all_reduce(dtype: torch.dtype) -> float:
        values = [torch.zeros(numel, dtype=dtype) for _ in ranks]
        seconds = _core_s(lambda: _together(lambda rank: ranks[rank].allreduce([values[rank]])))
        return seconds / (numel * dtype.itemsize)

    waiting = _slowdown(numel)
    return {
        "socket_s": waiting * _core_s(lambda: swap(numel)) / numel,
        "all_reduce_s": waiting * all_reduce(torch.float32),
        "all_reduce_16_s": waiting * all_reduce(torch.bfloat16),
        "message_s": _seconds(lambda: swap(_MESSAGE_NUMEL)),
    }


def _core_s(action: Callable[[], Any]) -> float:
    """What each of the ranks computes, the kernel's part included, were it alone on its core."""
    return _seconds(action, clock=time.process_time) / _NUM_LOOPBACK


def _slowdown(numel: int) -> float:
    """How many times as long as it computes a thread takes, because others have its core, too."""
    values, others = torch.ones(numel), torch.ones(numel)

    def copy() -> None:
        values.copy_(others)

    return max(_seconds(copy) / _seconds(copy, clock=time.thread_time), 1.0)


def _ranks() -> list[Any]:
    """Of a process group of their own, whatever this process has besides."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    made: list[Any] = [None] * _NUM_LOOPBACK

    def make(rank: int) -> None:
        made[rank] = dist.ProcessGroupGloo(store, rank, _NUM_LOOPBACK, _TIMEOUT)

    threads = [threading.Thread(target=make, args=(rank,)) for rank in range(_NUM_LOOPBACK)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return made


def _together(start: Callable[[int], Any]) -> None:
    for work in [start(rank) for rank in range(_NUM_LOOPBACK)]:
        work.wait()


def _seconds(action: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """The median of several times; the first one is not counted."""
    return statistics.median([_seconds_once(action, clock) for _ in range(_REPEATS + 1)][1:])


def _seconds_once(action: Callable[[], Any], clock: Callable[[], float]) -> float:
    began = clock()
    action()
    return clock() - began

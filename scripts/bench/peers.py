"""Our codec and exchange beside others' on the same vectors, in one run on this machine.

python scripts/bench/peers.py --numel 10000000 --num_processes 2 4

Local part, one thread: encode and decode time, bits per element, and the relative error of one
shot, |decoded - g| / |g|, with the scale that fits best. Our levels are taken against a range that
has seen ten earlier gradients of the same distribution, as it is in training.

Distributed part: one exchange of a gradient over gloo on loopback, as each system does it in
training: torch's all_reduce, DistributedDataParallel in one bucket (plain, and with torch's fp16
and PowerSGD hooks), and our round. Peers that are not installed, or fail here, are reported so.
"""

import importlib
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import click
import torch
import torch.distributed as dist
from steps import HOOKS, ONE_BUCKET, vote_name
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import compsgd
from compsgd.comm import Collectives, Ledger, build_exchange
from compsgd.comm.traffic.ledger import Purpose
from compsgd.workers.bench.timing import machine, time_beside_copies
from compsgd.workers.commands.spreading import SpreadingCommand
from compsgd.workers.launch.spawning import start_processes
from compsgd.workers.report.tables import format_table

_SCALE = 1e-3
_DECAY = 0.99
_ROWS = 1000
_HOOKS = ("float32", "fp16", f"PowerSGD 1{ONE_BUCKET}", f"PowerSGD 2{ONE_BUCKET}")


class Codec(NamedTuple):
    """How a system packs a vector: `encode` gives anything, `num_bytes` says how large it is."""

    name: str
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]
    num_bytes: Callable[[Any], int]


def gradient_like(numel: int, seed: int) -> Tensor:
    """Heavy-tailed, as gradients are: normal values of very different scales."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(numel, generator=generator) ** 4
    return torch.randn(numel, generator=generator) * scale * _SCALE


# The local part.


def our_codec(num_bits: int, numel: int) -> Codec:
    """The optimizer's own compress and step, on one worker."""
    parameter = torch.zeros(numel)
    one = compsgd.CompressedSGDVote(
        [parameter], 1.0, num_bits=num_bits, compile="on", decay_min=_DECAY, decay_max=_DECAY
    )
    for seed in range(1, 11):
        parameter.grad = gradient_like(numel, seed)
        one.step()

    def encode(gradient: Tensor) -> None:
        parameter.grad = gradient
        one.compress()

    def decode(_: None) -> Tensor:
        parameter.zero_()
        one.step()
        return -parameter

    size = compsgd.packed_num_bytes(numel, num_bits)
    return Codec(f"compsgd {vote_name(num_bits)}", encode, decode, lambda _: size)


def fp16_codec() -> Codec:
    return Codec("fp16 cast", lambda g: g.half(), lambda h: h.float(), lambda h: h.nbytes)


def bitsandbytes_codec() -> Codec:
    functional = importlib.import_module("bitsandbytes.functional")

    def size(encoded: Any) -> int:
        codes, state = encoded
        return int(codes.nbytes + state.absmax.nbytes)

    return Codec(
        "bitsandbytes blockwise 8 bit",
        functional.quantize_blockwise,
        lambda encoded: functional.dequantize_blockwise(*encoded),
        size,
    )


def hivemind_codec(kind: str) -> Codec:
    compression = importlib.import_module("hivemind.compression")
    one = getattr(compression, kind)()

    def compress(gradient: Tensor) -> Any:
        return one.compress(gradient, compression.CompressionInfo.from_tensor(gradient))

    return Codec(f"hivemind {kind}", compress, one.extract, lambda message: len(message.buffer))


def local_codecs(numel: int) -> Iterator[tuple[str, Callable[[], Codec]]]:
    for num_bits in (1, 3, 4, 8):
        yield f"compsgd {vote_name(num_bits)}", lambda b=num_bits: our_codec(b, numel)
    yield "fp16 cast", fp16_codec
    yield "bitsandbytes blockwise 8 bit", bitsandbytes_codec
    for kind in ("Uniform8BitQuantization", "Quantile8BitQuantization", "BlockwiseQuantization"):
        yield f"hivemind {kind}", lambda kind=kind: hivemind_codec(kind)


def relative_error(decoded: Tensor, gradient: Tensor) -> float:
    decoded, gradient = decoded.double(), gradient.double()
    scale = (decoded @ gradient) / (decoded @ decoded)
    return float((scale * decoded - gradient).norm() / gradient.norm())


def measure_codec(codec: Codec, gradient: Tensor, repeats: int) -> list[str]:
    encoded = codec.encode(gradient)
    error = relative_error(codec.decode(encoded), gradient)
    bits = 8 * codec.num_bytes(encoded) / gradient.numel()
    encode = time_beside_copies(lambda: codec.encode(gradient), gradient.numel(), repeats)
    decode = _decode_alone(codec, gradient, repeats)
    return [codec.name, f"{bits:.2f}", f"{encode.seconds / gradient.numel() * 1e9:.2f}",
            f"{encode.copies:.1f}", f"{decode / gradient.numel() * 1e9:.2f}",
            f"{error:.3f}"]  # fmt: skip


def _decode_alone(codec: Codec, gradient: Tensor, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        encoded = codec.encode(gradient)
        began = time.perf_counter()
        codec.decode(encoded)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def local_part(numel: int, repeats: int) -> None:
    gradient = gradient_like(numel, 0)
    rows = []
    for name, build in local_codecs(numel):
        try:
            rows.append(measure_codec(build(), gradient, repeats))
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            click.echo(f"{name}: not measured ({reason[:90]})")
    head = ["codec", "bits", "encode ns", "copies", "decode ns", "rel. error"]
    click.echo(f"\n{numel:,} elements, one thread; decoding ours includes vote and update\n")
    click.echo(format_table(head, rows))


# The distributed part.


def all_reduce_exchange(numel: int) -> Callable[[], Any]:
    gradient = gradient_like(numel, dist.get_rank())
    return lambda: dist.all_reduce(gradient.div_(dist.get_world_size()))


class _Linear(nn.Module):
    """A parameter whose gradient is given: its loss is their product."""

    def __init__(self, gradient: Tensor) -> None:
        super().__init__()
        self.gradient = gradient
        self.weight = nn.Parameter(torch.zeros_like(gradient))

    def forward(self) -> Tensor:
        return (self.weight * self.gradient).sum()


def ddp_exchange(numel: int, hook: str) -> Callable[[], Any]:
    rows = _ROWS if numel % _ROWS == 0 else 1
    model = _Linear(gradient_like(numel, dist.get_rank()).view(rows, -1))
    ddp = DistributedDataParallel(model, bucket_cap_mb=4 * numel / 2**20 + 1)
    HOOKS[hook](ddp)

    def step() -> None:
        model.weight.grad = None
        ddp().backward()

    return step


def local_backward(numel: int) -> Callable[[], Any]:
    model = _Linear(gradient_like(numel, dist.get_rank()))

    def step() -> None:
        model.weight.grad = None
        model().backward()

    return step


def our_exchange(numel: int, num_bits: int) -> Callable[[], Any]:
    parameter = torch.zeros(numel)
    group = dist.new_group()
    collectives = Collectives(Ledger(), Purpose.GRADIENT, dist.get_world_size(), group)
    one = compsgd.CompressedSGDVote(
        [parameter], 1e-4, num_bits=num_bits, compile="on", decay_min=_DECAY, decay_max=_DECAY,
        exchange=build_exchange("auto", collectives),
    )  # fmt: skip
    parameter.grad = gradient_like(numel, dist.get_rank())
    return one.step


def distributed_cases(numel: int) -> list[tuple[str, Callable[[], Callable[[], Any]], bool]]:
    """Name, how to build the action, and whether a backward pass is in it."""
    cases: list[tuple[str, Callable[[], Callable[[], Any]], bool]] = [
        ("float32 all_reduce", lambda: all_reduce_exchange(numel), False),
        ("backward alone", lambda: local_backward(numel), False),
    ]
    for hook in _HOOKS:
        cases.append((f"DDP, {hook}", lambda hook=hook: ddp_exchange(numel, hook), True))
    for num_bits in (1, 3, 4):
        name = f"compsgd {vote_name(num_bits)}"
        cases.append((name, lambda b=num_bits: our_exchange(numel, b), False))
    return cases


def measure_exchanges(numel: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of each, on every rank; for DDP without the backward pass itself."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    found: dict[str, float] = {}
    for name, build, has_backward in distributed_cases(numel):
        action = build()
        for _ in range(4):
            action()
        times = []
        for _ in range(repeats):
            dist.barrier()
            began = time.perf_counter()
            action()
            times.append(time.perf_counter() - began)
        median_ms = statistics.median(times) * 1e3
        found[name] = median_ms - (found["backward alone"] if has_backward else 0)
    dist.destroy_process_group()
    return found


def distributed_part(numel: int, num_processes: int, repeats: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = start_processes(num_processes, measure_exchanges, numel, repeats)[0]
    unit = found["float32 all_reduce"]
    rows = [
        [name, f"{median_ms:.1f}", f"{unit / median_ms:.2f}x"]
        for name, median_ms in found.items()
        if name != "backward alone"
    ]
    click.echo(f"\n{num_processes} processes on loopback, {numel:,} elements, a thread each\n")
    click.echo(format_table(["exchange of one gradient", "ms", "all_reduce / this"], rows))


@click.command(cls=SpreadingCommand)
@click.option("--numel", type=click.IntRange(min=1000), default=10_000_000, show_default=True)
@click.option("--num_processes", type=click.IntRange(min=2), multiple=True, default=[2, 4])
@click.option("--repeats", type=click.IntRange(min=1), default=9, show_default=True)
def main(numel: int, num_processes: tuple[int, ...], repeats: int) -> None:
    """Prints a table of codecs, and one of exchanges for each number of processes."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    python = sys.version.split()[0]
    click.echo(f"{machine()['cpu']}, torch {torch.__version__}, python {python}", err=True)
    local_part(numel, repeats)
    for count in num_processes:
        distributed_part(numel, count, repeats)


if __name__ == "__main__":
    main()

"""What a run would be (`--dry_run`): its size, its bytes and its memory, and nothing is done."""

from typing import Any

import torch
from torch import nn

from compsgd.comm import Collectives, Ledger, Purpose, build_exchange
from compsgd.comm.traffic.cost import ring_all_reduce
from compsgd.optim.round_optimizer import RoundOptimizer
from compsgd.startup import announce
from compsgd.workers.data.datasets import IMAGE_FORMATS, dataset_of
from compsgd.workers.data.splits import Dataset, Format
from compsgd.workers.failures import UsageError
from compsgd.workers.options import Options
from compsgd.workers.report.tracker import check_tracker
from compsgd.workers.train.duration import Duration
from compsgd.workers.train.models import check_model, check_output
from compsgd.workers.train.training import (
    batch_plan,
    build_optimizer,
    initial_model,
    voted_parameters,
)

_UNITS = (("MB", 1e6), ("kB", 1e3))


def forecast(options: Options) -> list[tuple[str, str]]:
    """Names and values, of a cell of the sweep. One round is gone through with gradients of 0, by a
    process that hosts all workers.

    Raises:
        UsageError: options that a run would refuse.
    """
    check_model(options.model, options.dataset)
    check_tracker(options.track)
    announce(f"loading {options.dataset}")
    dataset, format = _data(options)
    model = initial_model(options, format)
    if dataset is not None:
        check_output(options.model, model, dataset)
    numel = sum(parameter.numel() for parameter in model.parameters())
    num_voted = sum(parameter.numel() for parameter in voted_parameters(options, model))
    optimizer, ledger = _after_one_round(options, model)
    sent_bytes = ledger.steps[-1].logical.sent_bytes
    ring_bytes = ring_all_reduce(numel, options.num_workers)
    return [
        ("parameters", f"{numel:,}, of which {num_voted:,} are compressed"),
        *_length(options, dataset),
        ("bytes/worker/step", f"{sent_bytes:,}"),
        ("of a float32 ring all-reduce", f"{ring_bytes:,}"),
        ("compression", f"{ring_bytes / sent_bytes:.2f}x" if sent_bytes else "-"),
        ("weights and gradients", f"{_size(8 * numel)} a process"),
        ("optimizer", _memory_of(optimizer, options.num_workers)),
    ]


def _data(options: Options) -> tuple[Dataset | None, Format]:
    """The data where it is there; where it is not, what is known of it."""
    try:
        dataset = dataset_of(options, download=False)
    except UsageError:
        if options.download and options.dataset in IMAGE_FORMATS:
            return None, IMAGE_FORMATS[options.dataset]
        raise
    return dataset, dataset.format


def _length(options: Options, dataset: Dataset | None) -> list[tuple[str, str]]:
    if dataset is None:
        return [("data", f"{options.dataset}, which is not downloaded yet")]
    duration = Duration.of(options, batch_plan(options, dataset))
    return [
        ("data", f"{len(dataset.train):,} + {len(dataset.test):,} {dataset.train.counted}"),
        ("rounds", f"{duration.num_rounds:,}, {duration.rounds_per_epoch:,} an epoch"),
    ]


def _after_one_round(options: Options, model: nn.Module) -> tuple[RoundOptimizer, Ledger]:
    ledger = Ledger()
    collectives = Collectives(ledger, Purpose.GRADIENT, options.num_workers)
    exchange = build_exchange(options.vote.exchange, collectives)
    optimizer = build_optimizer(options, options.cells()[0], model, exchange, "off")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    for slot in range(options.num_workers):
        optimizer.compress(slot)
    optimizer.step()
    return optimizer, ledger


def _memory_of(optimizer: RoundOptimizer, num_workers: int) -> str:
    """What it remembers: of each hosted worker, and once for all."""
    sizes = {True: 0, False: 0}
    for state in optimizer.state.values():
        for name, value in state.items():
            sizes["." in name] += _size_bytes(value)
    by_worker = _size(sizes[True] // num_workers)
    return f"{_size(sizes[False])} a process, and {by_worker} for each worker that it hosts"


def _size_bytes(value: Any) -> int:
    is_tensor = isinstance(value, torch.Tensor)
    return value.numel() * value.element_size() if is_tensor else 0


def _size(num_bytes: int) -> str:
    for name, unit in _UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.1f} {name}"
    return f"{num_bytes} bytes"

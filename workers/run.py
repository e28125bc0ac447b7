"""One run from options to results: every process goes through the same steps."""

import logging
import os
from contextlib import nullcontext
from typing import Any

import click
import torch
from torch import nn

from compsgd.comm import build_exchange
from compsgd.comm.agreement import check_agreement
from compsgd.comm.messages import all_succeed
from compsgd.comm.process_group import Network, Place, connect
from compsgd.workers.data import Dataset, load_dataset
from compsgd.workers.digests import shapes_sha256, versions, weights_sha256
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.models import build_model, normalises_batches
from compsgd.workers.options import Cell, Options
from compsgd.workers.preparation import Preparation, prepare_kernels
from compsgd.workers.progress import Bar, Lines, Silence, cell_name, on_a_terminal
from compsgd.workers.results import Experiment
from compsgd.workers.training import CellResult, CellTraining, batch_plan

_FAILURES = (UsageError, RunError)


def run(options: Options, place: Place) -> None:
    """Trains every cell of the sweep; rank 0 reports and writes.

    Raises:
        UsageError: nothing was computed or created.
        RunError, CompsgdError, ElsewhereError: the run failed; finished cells are kept.
    """
    options.check(place)
    device = choose_device(options, place)
    backend = choose_backend(options, device)
    if options.verify_bytes and backend != "gloo":
        raise UsageError(f"--verify_bytes counts TCP sockets; {backend} does not send through them")
    _set_threads(options, place)
    torch.backends.cudnn.deterministic = True
    _report_warnings(place)
    with connect(place, options.num_workers, backend, options.timeout, device) as network:
        experiment = Experiment(options)
        _on_rank_0(network, experiment.check)
        dataset = _load_together(options, network, place)
        model = build_model(options.model, dataset.image_shape, dataset.num_classes, options.seed)
        all_succeed(network.bookkeeping, lambda: _check_batches(options, dataset, model), _FAILURES)
        check_agreement(network.bookkeeping, _facts(options, dataset, model))
        preparation = _prepare(options, dataset, model, network, place)
        environment = {
            "processes": place.world_size,
            "device": str(device),
            "backend": backend if place.launched else None,
            "threads": torch.get_num_threads(),
            "compiled": preparation.is_compiled,
            "compile_seconds": round(preparation.seconds, 1),
        }
        _on_rank_0(network, lambda: experiment.create(environment))
        for cell in options.cells():
            result = _train(options, cell, dataset, device, network, place, preparation.choice)
            _on_rank_0(network, lambda result=result: experiment.save(result, network.ledger))
        _on_rank_0(network, lambda: _report(experiment))


def choose_device(options: Options, place: Place) -> torch.device:
    """This process's own GPU where every process of the machine has one, or the CPU."""
    enough = torch.cuda.device_count() >= place.local_world_size
    if options.device == "cuda" and not enough:
        raise UsageError(
            f"--device cuda needs a GPU per process; this machine has {torch.cuda.device_count()} "
            f"for {place.local_world_size}"
        )
    if options.backend == "nccl" and (not enough or options.device == "cpu"):
        raise UsageError(
            f"--backend nccl needs a GPU per process; this machine has {torch.cuda.device_count()} "
            f"for {place.local_world_size}, and --device is {options.device}"
        )
    if options.device == "cpu" or not enough:
        return torch.device("cpu")
    return torch.device("cuda", place.local_rank)


def choose_backend(options: Options, device: torch.device) -> str:
    if options.backend != "auto":
        return options.backend
    return "nccl" if device.type == "cuda" else "gloo"


def _set_threads(options: Options, place: Place) -> None:
    share = max(1, (os.cpu_count() or 1) // place.local_world_size)
    torch.set_num_threads(options.threads or share)


def _report_warnings(place: Place) -> None:
    """The library's warnings are known to every process; rank 0 shows them."""
    log = logging.getLogger("compsgd")
    log.propagate = False
    log.handlers = [logging.StreamHandler() if place.rank == 0 else logging.NullHandler()]


def _on_rank_0(network: Network, action: Any) -> None:
    """What only one process does, while the others wait for it, and fail if it does."""
    own_part = action if network.bookkeeping.rank == 0 else _nothing
    all_succeed(network.bookkeeping, own_part, _FAILURES)


def _nothing() -> None:
    pass


def _load_together(options: Options, network: Network, place: Place) -> Dataset:
    """One process of each machine downloads, verifies and unpacks; then the others read."""

    def load(download: bool) -> Dataset:
        return load_dataset(options.dataset, options.dataset_root, download)

    first = all_succeed(
        network.bookkeeping,
        lambda: load(options.download) if place.local_rank == 0 else None,
        _FAILURES,
    )
    return all_succeed(network.bookkeeping, lambda: first or load(False), _FAILURES)


def _check_batches(options: Options, dataset: Dataset, model: nn.Module) -> None:
    plan = batch_plan(options, dataset)
    if options.batch_size > plan.num_images:
        raise UsageError(
            f"--batch_size {options.batch_size} is more than the {plan.num_images} training images "
            f"of {options.dataset}: there is not one full batch"
        )
    if plan.smallest_batch == 1 and normalises_batches(model):
        raise UsageError(
            f"--batch_size {options.batch_size} leaves a last batch of one image, which the batch "
            f"norm of {options.model} cannot train on; choose another size"
        )


def _facts(options: Options, dataset: Dataset, model: nn.Module) -> dict[str, str]:
    """What must be the same on every process before the first step."""
    weights = model.state_dict()
    return options.shared() | {
        **{f"the version of {name}": version for name, version in versions().items()},
        "the size of the data set": f"{len(dataset.train)} + {len(dataset.test)} images",
        "the shapes of the model": shapes_sha256(weights)[:16],
        "the initial weights": weights_sha256(weights)[:16],
    }


def _prepare(
    options: Options, dataset: Dataset, model: nn.Module, network: Network, place: Place
) -> Preparation:
    """Compiles where it pays; rank 0 says what that took, and all must have come to the same."""
    preparation = prepare_kernels(
        options,
        sum(parameter.numel() for parameter in model.parameters()),
        batch_plan(options, dataset).num_rounds * options.epochs * len(options.cells()),
        build_exchange(options.exchange, network.gradient).num_shards,
        network,
        place,
    )
    check_agreement(
        network.bookkeeping, {"whether kernels are compiled": str(preparation.is_compiled)}
    )
    if place.rank == 0 and preparation.is_compiled:
        click.echo(f"compiled the kernels in {preparation.seconds:.1f} s")
    return preparation


def _train(
    options: Options,
    cell: Cell,
    dataset: Dataset,
    device: torch.device,
    network: Network,
    place: Place,
    compile: str,
) -> CellResult:
    name = cell_name(cell, options.has_range)
    num_rounds = batch_plan(options, dataset).num_rounds
    if place.rank != 0:
        progress: Any = nullcontext(Silence())
    elif on_a_terminal():
        progress = Bar(name, num_rounds, options.epochs)
    else:
        progress = nullcontext(Lines(name, num_rounds))
    with progress as shown:
        return CellTraining(options, cell, dataset, device, network, shown, compile).run()


def _report(experiment: Experiment) -> None:
    click.echo()
    click.echo(experiment.table())
    click.echo()
    click.echo(f"results: {experiment.path}")
    for plot in experiment.plots:
        click.echo(f"plot:    {plot}")

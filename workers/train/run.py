"""One run from options to results: every process goes through the same steps."""

import contextlib
import functools
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from torch import nn

from compsgd.codec.binning import BINNINGS
from compsgd.comm import build_exchange
from compsgd.comm.group.agreement import check_agreement
from compsgd.comm.group.collectives import CollectiveError
from compsgd.comm.group.messages import NOTHING, all_succeed, on_rank_0
from compsgd.comm.group.process_group import Network, connect
from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.group.store import Store, open_store
from compsgd.comm.traffic.ledger import Flow, Purpose
from compsgd.kinds import TEXT, Flag, Kind
from compsgd.startup import announce
from compsgd.workers.data.datasets import dataset_of
from compsgd.workers.data.splits import Dataset
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.launch.watchdog import StopAgreement, Watchdog
from compsgd.workers.options import Cell, Options
from compsgd.workers.own_code import find_factory
from compsgd.workers.report.progress import (
    Bar,
    Lines,
    Progress,
    Silence,
    Together,
    cell_file_name,
    cell_name,
    on_a_terminal,
)
from compsgd.workers.report.tensorboard import FOLDER as TENSORBOARD
from compsgd.workers.report.tensorboard import TensorBoard
from compsgd.workers.report.tracker import FOLDER as TRACKER
from compsgd.workers.report.tracker import OPTION as TRACK
from compsgd.workers.report.tracker import TrackedRun, Tracker, check_tracker
from compsgd.workers.results.digests import shapes_sha256, versions, weights_sha256
from compsgd.workers.results.experiment import Experiment, check_unchanged, free_name
from compsgd.workers.train import checkpoint
from compsgd.workers.train.cell_format import SharedFormat, is_in_cell, worker_format
from compsgd.workers.train.checkpoint import Loaded, State
from compsgd.workers.train.compile_cache import usable_cache
from compsgd.workers.train.duration import Duration
from compsgd.workers.train.measures import measure_of
from compsgd.workers.train.models import check_model, check_output, normalises_batches
from compsgd.workers.train.preparation import Preparation, prepare_kernels
from compsgd.workers.train.training import CellTraining, batch_plan, initial_model, voted_parameters

log = logging.getLogger("compsgd")

_FAILURES = (UsageError, RunError)


def run(options: Options, rank_info: RankInfo) -> None:
    """Trains every cell of the sweep; rank 0 reports and writes.

    Raises:
        UsageError: nothing was computed or created.
        RunError, CompsgdError, ElsewhereError: the run failed; finished cells are kept.
    """
    options.check(rank_info)
    check_model(options.model, options.dataset)
    check_tracker(options.track)
    device = choose_device(options, rank_info)
    backend = choose_backend(options, device)
    if options.verify_bytes and backend != "gloo":
        raise UsageError(f"--verify_bytes counts TCP sockets; {backend} does not send through them")
    _set_threads(options, rank_info)
    torch.backends.cudnn.deterministic = True
    store = open_store(rank_info) if rank_info.launched else None
    with (
        _reported_warnings(rank_info),
        usable_cache(),
        Watchdog(rank_info, store, options.vote.timeout_s) as watchdog,
    ):
        try:
            with connect(
                rank_info, store, options.num_workers, backend, options.vote.timeout_s, device
            ) as network:
                check_agreement(network.bookkeeping, options.shared())
                options = _named(options, network, rank_info)
                run_ = _Run(options, rank_info, device, network)
                try:
                    run_.to_the_end(store, watchdog)
                finally:
                    run_.release()
        except CollectiveError as error:
            raise watchdog.explain(error) from error


class _Run:
    """What the steps of a run have in common."""

    def __init__(
        self, options: Options, rank_info: RankInfo, device: torch.device, network: Network
    ) -> None:
        self._options = options
        self._rank_info = rank_info
        self._device = device
        self._network = network
        self._peers = network.bookkeeping
        self._experiment = Experiment(options)
        self._hosted = build_exchange(options.vote.exchange, network.gradient).hosted
        is_first_here = rank_info.local_rank == 0
        path = self._experiment.path / checkpoint.FOLDER
        self._checkpoints = checkpoint.Checkpoints(
            path, len(options.cells()), self._hosted, self._peers, is_first_here
        )

    def release(self) -> None:
        """Others may have the experiment."""
        self._experiment.release()

    def to_the_end(self, store: Store | None, watchdog: Watchdog) -> None:
        is_resumed = self._options.resume or self._is_started_again()
        found = self._find_checkpoint() if is_resumed else None
        if is_resumed and found is None and self._is_finished():
            self._on_rank_0(lambda: _report(self._experiment))
            return
        if not is_resumed:
            self._on_rank_0(self._experiment.check)
        announce(f"loading {self._options.dataset}")
        dataset = _load_together(self._options, self._network, self._rank_info)
        preparation, loaded = self._prepare_and_load(dataset, found)
        if is_resumed and loaded is None and self._rank_info.rank == 0:
            click.echo("there is no checkpoint yet: the run begins anew")
        self._open_folder(preparation, dataset, loaded)
        stopping = StopAgreement(store, watchdog, self._options.vote.timeout_s)
        with watchdog.graceful():
            self._train_cells(dataset, preparation, stopping, found, loaded)
        self._on_rank_0(lambda: _report(self._experiment))

    def _is_started_again(self) -> bool:
        """Whether torchrun starts a run once more that it has begun itself: to go on with it."""

        def is_own() -> bool:
            return self._rank_info.attempt > 0 and self._experiment.is_started_by(_launcher())

        return bool(self._on_rank_0(is_own, Flag()))

    def _find_checkpoint(self) -> State | None:
        self._on_rank_0(self._experiment.check_resumable)
        return self._checkpoints.find()

    def _is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self._on_rank_0(self._experiment.read_results, Flag()))

    def _prepare_and_load(
        self, dataset: Dataset, found: State | None
    ) -> tuple[Preparation, Loaded | None]:
        """Whether all can train, and what a checkpoint that was found holds."""
        model = self._together(lambda: initial_model(self._options, dataset.format))
        preparation = self._check_and_prepare(dataset, model)
        if found is None:
            return preparation, None
        self._check_same(found, preparation, dataset)
        return preparation, self._load(found, dataset, model)

    def _check_and_prepare(self, dataset: Dataset, model: nn.Module) -> Preparation:
        options, network = self._options, self._network
        self._together(lambda: _check_batches(options, dataset, model))
        check_agreement(self._peers, _facts(options, dataset, model))
        return _prepare(options, dataset, model, self._device, network, self._rank_info)

    def _check_same(self, found: State, preparation: Preparation, dataset: Dataset) -> None:
        """Raises UsageError if the checkpoint was made with an option that matters and is another
        one now; warns of what may change bits."""
        lasting = self._lasting(preparation, dataset)
        check_unchanged(lasting, found["options"], self._checkpoints.path)
        here = self._surroundings()
        for name, then in found["surroundings"].items():
            if here.get(name) != then:
                log.warning(
                    "%s is %s, and was %s before: bits may differ from those of a run that was "
                    "never interrupted", name, here.get(name), then,
                )  # fmt: skip

    def _load(self, found: State, dataset: Dataset, model: nn.Module) -> Loaded:
        duration = _duration(self._options, dataset)
        weights = model.state_dict()
        shared = SharedFormat(self._options, weights, duration, num_finished=found["cell"])
        return self._checkpoints.load(
            shared, functools.partial(worker_format, duration, self._options.amp)
        )

    def _lasting(self, preparation: Preparation, dataset: Dataset) -> dict[str, str]:
        lasting = self._options.lasting() | {"the content of the data set": dataset.digest[:16]}
        if not BINNINGS[self._options.vote.binning].is_exact:
            lasting["whether kernels are compiled (--compile)"] = str(preparation.is_compiled)
        return lasting

    def _surroundings(self) -> dict[str, str]:
        """What may change the last bits of a gradient."""
        return {f"the version of {name}": version for name, version in versions().items()} | {
            "the number of threads (--threads)": str(torch.get_num_threads()),
            "the device": self._device.type,
        }

    def _open_folder(
        self, preparation: Preparation, dataset: Dataset, loaded: Loaded | None
    ) -> None:
        environment = {
            "processes": self._rank_info.world_size,
            "device": str(self._device),
            "backend": dist.get_backend() if self._rank_info.launched else None,
            "threads": torch.get_num_threads(),
            "data_sha256": dataset.digest,
            "compiled": preparation.choice,
            "compile_seconds": round(preparation.seconds, 1),
            "resumed": loaded is not None,
            "launcher": _launcher(),
        }
        if loaded is None:
            self._on_rank_0(lambda: self._experiment.create(environment))
            return
        self._checkpoints.tidy()
        if self._rank_info.rank == 0:
            for purpose in Purpose:
                self._wire[purpose] += tuple(loaded.shared["wire"][purpose.value])
        finished = loaded.shared["finished"]
        self._on_rank_0(lambda: self._experiment.reopen(finished, environment))

    def _train_cells(
        self,
        dataset: Dataset,
        preparation: Preparation,
        stopping: StopAgreement,
        found: State | None,
        loaded: Loaded | None,
    ) -> None:
        cells = self._options.cells()
        first = 0 if found is None else found["cell"]
        lasting = self._lasting(preparation, dataset)
        facts = {"options": lasting, "surroundings": self._surroundings()}
        for number, cell in list(enumerate(cells))[first:]:

            def save(training: CellTraining, number: int = number) -> None:
                shared, by_worker = training.state()
                self._save(facts | {"cell": number}, shared, by_worker)

            duration = _duration(self._options, dataset)
            with self._progress(cell, duration) as progress:
                training = CellTraining(
                    self._options,
                    cell,
                    dataset,
                    self._device,
                    self._network,
                    progress,
                    preparation.choice,
                    stopping,
                    save,
                )
                if loaded is not None and is_in_cell(loaded.shared) and number == first:
                    self._together(functools.partial(training.restore, loaded))
                    position = training.position
                    progress.resume(position["epoch"], position["round_"])
                result = training.run()
            save_result = functools.partial(self._experiment.save, result, self._network.ledger)
            self._on_rank_0(save_result)
            if number + 1 < len(cells):
                nothing: dict[int, State] = {worker: {} for worker in self._hosted}
                self._save(facts | {"cell": number + 1}, {}, nothing)
        self._checkpoints.remove()

    def _save(self, facts: State, shared: State, by_worker: dict[int, State]) -> None:
        shared = shared | {
            "finished": self._experiment.finished_cells(),
            "wire": {purpose.value: list(flow) for purpose, flow in self._wire.items()},
        }
        self._checkpoints.save(facts, shared, by_worker)

    @property
    def _wire(self) -> dict[Purpose, Flow]:
        """What has crossed between this process and others; of process 0, in all attempts."""
        return self._network.ledger.wire

    def _on_rank_0(self, action: Callable[[], Any], kind: Kind = NOTHING) -> Any:
        """What only one process does, while the others wait for it, and fail if it does."""
        return on_rank_0(self._peers, action, _FAILURES, kind)

    def _together(self, action: Callable[[], Any]) -> Any:
        """What all do, and fail if one of them does."""
        return all_succeed(self._peers, action, _FAILURES)

    def _progress(self, cell: Cell, duration: Duration) -> AbstractContextManager[Progress]:
        """What shows how far a cell is."""
        name = cell_name(cell, self._options.has_range)
        measure = measure_of(self._options.dataset)
        trackers: list[Tracker] = []
        if self._options.track is not None:
            self._on_rank_0(lambda: trackers.append(self._tracker(cell)))
        if self._rank_info.rank != 0:
            return nullcontext(Silence())
        shown: list[Any] = [(Bar if on_a_terminal() else Lines)(name, duration, measure)]
        if self._options.tensorboard:
            folder = self._experiment.path / TENSORBOARD / cell_file_name(cell)
            shown.append(TensorBoard(folder, duration, measure))
        return Together([*shown, *trackers])

    def _tracker(self, cell: Cell) -> Tracker:
        """A user's own, of a cell."""
        name = self._options.track
        assert name is not None, "it is wanted"
        path = self._experiment.path
        shown_name = cell_name(cell, self._options.has_range)
        folder = path / TRACKER / cell_file_name(cell)
        run = TrackedRun(path.name, shown_name, *cell, self._options.as_dict(), folder)
        try:
            return Tracker(name, find_factory(TRACK, name), run)
        except RunError:
            self._experiment.discard()
            raise


def _named(options: Options, network: Network, rank_info: RankInfo) -> Options:
    """With a number behind the name that the settings make, where there is such an experiment."""
    if options.exp_name is not None or options.resume or options.overwrite:
        return options

    def find_name() -> str:
        return free_name(options, _launcher() if rank_info.attempt > 0 else None)

    usual, name = options.folder_name(), on_rank_0(network.bookkeeping, find_name, _FAILURES, TEXT)
    if name == usual:
        return options
    if rank_info.rank == 0:
        click.echo(f"there is an experiment {usual}: this one is {name}")
    return replace(options, exp_name=name)


def _launcher() -> str:
    """Names the process that started this one: numbers come again, times do not."""
    parent = os.getppid()
    try:
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = "?"
    return f"{platform.node()} {parent} {started} {os.environ.get('TORCHELASTIC_RUN_ID', '')}"


def choose_device(options: Options, rank_info: RankInfo) -> torch.device:
    """This process's own GPU where every process of the machine has one, or the CPU."""
    enough = torch.cuda.device_count() >= rank_info.local_world_size
    if options.device == "cuda" and not enough:
        raise UsageError(
            f"--device cuda needs a GPU per process; this machine has {torch.cuda.device_count()} "
            f"for {rank_info.local_world_size}"
        )
    if options.backend == "nccl" and (not enough or options.device == "cpu"):
        raise UsageError(
            f"--backend nccl needs a GPU per process; this machine has {torch.cuda.device_count()} "
            f"for {rank_info.local_world_size}, and --device is {options.device}"
        )
    if options.device == "cpu" or not enough:
        return torch.device("cpu")
    return torch.device("cuda", rank_info.local_rank)


def choose_backend(options: Options, device: torch.device) -> str:
    if options.backend != "auto":
        return options.backend
    return "nccl" if device.type == "cuda" else "gloo"


def _set_threads(options: Options, rank_info: RankInfo) -> None:
    share = max(1, (os.cpu_count() or 1) // rank_info.local_world_size)
    torch.set_num_threads(options.threads or share)


@contextlib.contextmanager
def _reported_warnings(rank_info: RankInfo) -> Iterator[None]:
    """Within, the first process of each machine alone shows the library's warnings, which are known
    to every process there."""
    before = log.propagate, log.handlers
    log.propagate = False
    log.handlers = [logging.StreamHandler() if rank_info.local_rank == 0 else logging.NullHandler()]
    try:
        yield
    finally:
        log.propagate, log.handlers = before


def _load_together(options: Options, network: Network, rank_info: RankInfo) -> Dataset:
    """One process of each machine downloads, verifies and unpacks; then the others read."""

    def load(download: bool) -> Dataset:
        return dataset_of(options, download)

    first = all_succeed(
        network.bookkeeping,
        lambda: load(options.download) if rank_info.local_rank == 0 else None,
        _FAILURES,
    )
    return all_succeed(network.bookkeeping, lambda: first or load(False), _FAILURES)


def _duration(options: Options, dataset: Dataset) -> Duration:
    return Duration.of(options, batch_plan(options, dataset))


def _check_batches(options: Options, dataset: Dataset, model: nn.Module) -> None:
    plan = batch_plan(options, dataset)
    if plan.batch_size > plan.num_items:
        pieces = f" times --accumulate {options.accumulate}" if options.accumulate > 1 else ""
        raise UsageError(
            f"--batch_size {options.batch_size}{pieces} is more than the {plan.num_items} training "
            f"{dataset.train.counted} of {options.dataset}: there is not one full batch"
        )
    if (plan.num_items - 1) % options.batch_size == 0 and normalises_batches(model):
        raise UsageError(
            f"--batch_size {options.batch_size} leaves a last batch of one image, which the batch "
            f"norm of {options.model} cannot train on; choose another size"
        )
    if not voted_parameters(options, model):
        raise UsageError(
            f"--min_compress_numel {options.vote.min_compress_numel} leaves no parameter of "
            f"{options.model} to vote on"
        )
    check_output(options.model, model, dataset)
    _check_warmup(options, Duration.of(options, plan))


def _check_warmup(options: Options, duration: Duration) -> None:
    num_warmup_rounds = duration.warmup_rounds(options.warmup)
    if num_warmup_rounds >= duration.num_rounds:
        raise UsageError(
            f"--warmup {options.warmup:g} makes the warm-up longer than the run: "
            f"{num_warmup_rounds} rounds, and one more at least, of {duration.num_rounds}"
        )


def _facts(options: Options, dataset: Dataset, model: nn.Module) -> dict[str, str]:
    """What must be the same on every process before the first step."""
    weights = model.state_dict()
    return {
        **{f"the version of {name}": version for name, version in versions().items()},
        "the size of the data set": (
            f"{len(dataset.train)} + {len(dataset.test)} {dataset.train.counted}"
        ),
        "the content of the data set": dataset.digest[:16],
        "the shapes of the model": shapes_sha256(weights)[:16],
        "the initial weights": weights_sha256(weights)[:16],
    }


def _prepare(
    options: Options,
    dataset: Dataset,
    model: nn.Module,
    device: torch.device,
    network: Network,
    rank_info: RankInfo,
) -> Preparation:
    """Compiles where it pays; rank 0 says what that took, and all must have come to the same."""
    preparation = prepare_kernels(
        options,
        sum(one.numel() for one in voted_parameters(options, model)),
        _duration(options, dataset).num_rounds * len(options.cells()),
        build_exchange(options.vote.exchange, network.gradient).num_shards,
        device,
        network,
        rank_info,
    )
    check_agreement(
        network.bookkeeping, {"whether kernels are compiled": str(preparation.is_compiled)}
    )
    if rank_info.rank == 0 and preparation.choice != "off":
        click.echo(f"compiled the kernels in {preparation.seconds:.1f} s")
    return preparation


def _report(experiment: Experiment) -> None:
    click.echo()
    click.echo(experiment.table())
    click.echo()
    click.echo(f"results: {experiment.path}")
    for plot in experiment.plots:
        click.echo(f"plot:    {plot}")

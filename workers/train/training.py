"""The training loop of one process for one cell of the sweep."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

import compsgd
from compsgd.comm import build_exchange
from compsgd.comm.group.agreement import check_agreement
from compsgd.comm.group.process_group import Network
from compsgd.errors import SettingError
from compsgd.history import History
from compsgd.optim.optimizers import OPTIMIZERS
from compsgd.optim.round_optimizer import RoundOptimizer
from compsgd.optim.state import join_workers, split_workers
from compsgd.rng import derive_key
from compsgd.workers.data.datasets import BatchPlan
from compsgd.workers.data.items import seed_everything
from compsgd.workers.data.splits import Dataset, Format
from compsgd.workers.failures import InterruptedRunError, RunError
from compsgd.workers.launch.watchdog import StopAgreement
from compsgd.workers.options import Cell, Options
from compsgd.workers.report.progress import Progress, Step, cell_name
from compsgd.workers.results.digests import weights_sha256
from compsgd.workers.train.attacks import Attack
from compsgd.workers.train.buffers import WorkerZeroBuffers
from compsgd.workers.train.byte_check import ByteCheck
from compsgd.workers.train.checkpoint import Loaded, State
from compsgd.workers.train.diagnosis import Diagnosis, Finding
from compsgd.workers.train.duration import Duration
from compsgd.workers.train.evaluation import EvaluationAbandonedError, evaluate, in_worker_order
from compsgd.workers.train.measures import measure_of
from compsgd.workers.train.models import build_model
from compsgd.workers.train.recorder import Position, Recorder
from compsgd.workers.train.schedule import lr_of_round
from compsgd.workers.train.scores import (
    BatchScore,
    Score,
    batch_weighted,
    sample_weighted,
)
from compsgd.workers.train.worker_gradient import WorkerGradient


@dataclass(frozen=True)
class CellResult:
    """What a finished cell leaves behind.

    Attributes:
        train, test: the final weights on both whole splits.
        num_non_finite: ballots that sat out because a gradient was not finite.
        verified_bytes: the ledger against the kernel, with --verify_bytes.
        seconds: wall time of the whole cell, evaluations included.
    """

    cell: Cell
    history: History
    weights: dict[str, Tensor]
    num_parameters: int
    train: Score
    test: Score
    num_non_finite: int
    seconds: float
    verified_bytes: dict[str, Any]


class CellTraining:
    """Trains one (lr, decay) cell; every process runs the same steps with its own workers.

    It can be left between rounds and inside evaluations, which change nothing.
    """

    def __init__(
        self,
        options: Options,
        cell: Cell,
        dataset: Dataset,
        device: torch.device,
        network: Network,
        progress: Progress,
        compile: str,
        stopping: StopAgreement,
        save: Callable[["CellTraining"], None],
    ) -> None:
        """
        Args:
            compile: "on" or "off".
            stopping: asked after each round whether to stop.
            save: writes a checkpoint; all processes call it together.
        """
        self._options = options
        self._cell = cell
        self._dataset = dataset
        self._device = device
        self._network = network
        self._progress = progress
        self._plan = batch_plan(options, dataset)
        self._duration = Duration.of(options, self._plan)
        self._model: nn.Module = initial_model(options, dataset.format).to(device).train()
        self._exchange = build_exchange(
            options.vote.exchange,
            network.gradient,
            network.bookkeeping,
            options.vote.entropy_coding,
        )
        self._optimizer = build_optimizer(options, cell, self._model, self._exchange, compile)
        self._gradient = WorkerGradient(
            self._model,
            [one for _, one in _trained(self._model)],
            self._optimizer,
            dataset.train,
            device,
            options,
        )
        self._buffers = WorkerZeroBuffers(self._model, network.bookkeeping)
        self._recorder = Recorder()
        self._byte_check = ByteCheck(network) if options.verify_bytes else None
        self._attack = Attack(options)
        self._diagnosis: Diagnosis | None = None
        self._stopping = stopping
        self._save = save
        self._position = Position()
        self._scores = self._no_scores()
        self._num_full_rounds = 0
        self._total_bytes = 0
        self._began = time.perf_counter()

    @property
    def position(self) -> dict[str, Any]:
        return asdict(self._position)

    def run(self) -> CellResult:
        """From where it is to its end.

        Raises:
            InterruptedRunError: told to stop, on all processes, behind a checkpoint.
        """
        try:
            while self._position.epoch < self._duration.num_epochs:
                self._epoch(self._position.epoch)
            return self._result()
        except EvaluationAbandonedError:
            self._stop()

    def state(self) -> tuple[State, dict[int, State]]:
        """All that `restore` needs: what processes share, and what each hosted worker has. See
        cell_format.py."""
        self._buffers.synchronise()
        optimizer = self._optimizer.state_dict()
        optimizer["state"], by_worker = split_workers(optimizer["state"])
        shared = {
            "position": self.position,
            "weights": self._model.state_dict(),
            "optimizer": optimizer,
            "recorder": self._recorder.state(),
            "num_full_rounds": self._num_full_rounds,
            "byte_check": None if self._byte_check is None else self._byte_check.state(),
            "seconds": time.perf_counter() - self._began,
        }
        hosted = enumerate(self._exchange.hosted)
        return shared, {
            worker: {
                "optimizer": by_worker.get(worker, {}),
                "gradient": self._gradient.state(slot),
                "scores": self._scores[:, slot].clone(),
            }
            for slot, worker in hosted
        }

    def restore(self, loaded: Loaded) -> None:
        """Goes on from a checkpoint whose parts are of their format.

        Raises:
            RunError: what its optimizer remembers is none of this one's.
        """
        shared = loaded.shared
        self._position = Position(**shared["position"])
        self._model.load_state_dict(shared["weights"])
        optimizer = shared["optimizer"]
        optimizer["state"] = join_workers(
            optimizer["state"],
            {worker: state["optimizer"] for worker, state in loaded.by_worker.items()},
        )
        try:
            self._optimizer.load_state_dict(optimizer)
        except SettingError as error:
            raise RunError(f"the checkpoint's optimizer is none of this run: {error}") from error
        num_rounds = len(shared["recorder"]["seconds"])
        if self._optimizer.round != num_rounds:
            raise RunError(
                f"the checkpoint's optimizer is of round {self._optimizer.round}, and its "
                f"histories are of {num_rounds}"
            )
        self._recorder = Recorder.restored(shared["recorder"])
        for slot, worker in enumerate(self._exchange.hosted):
            self._scores[:, slot] = loaded.by_worker[worker]["scores"]
            self._gradient.restore(slot, loaded.by_worker[worker]["gradient"])
        self._num_full_rounds = shared["num_full_rounds"]
        self._total_bytes = sum(self._recorder.bytes_sent)
        if self._byte_check is not None:
            self._byte_check.restore(shared["byte_check"])
        self._began = time.perf_counter() - shared["seconds"]

    def _result(self) -> CellResult:
        measure = measure_of(self._options.dataset)
        history = self._recorder.as_history(self._optimizer.bin_counts, measure)
        history |= self._recorder.steps(self._options)
        if self._options.diagnose:
            history |= self._recorder.diagnoses()
        if self._byte_check is not None:
            history["wire_bytes_sent_hist"] = self._byte_check.ledger_bytes
            history["kernel_bytes_sent_hist"] = self._byte_check.kernel_bytes
        return CellResult(
            cell=self._cell,
            history=history,
            weights={name: value.cpu() for name, value in self._model.state_dict().items()},
            num_parameters=sum(parameter.numel() for parameter in self._model.parameters()),
            train=self._evaluate_on("train"),
            test=self._recorder.test[-1],
            num_non_finite=self._optimizer.num_non_finite,
            seconds=time.perf_counter() - self._began,
            verified_bytes={} if self._byte_check is None else self._byte_check.totals(),
        )

    def _epoch(self, epoch: int) -> None:
        order = self._plan.order(epoch)
        position = self._position
        num_rounds = self._duration.rounds_of(epoch)
        while position.round_ < num_rounds or position.must_evaluate:
            if not position.must_evaluate:
                self._train_round(order, epoch, position.round_)
                position.round_ += 1
                position.must_evaluate = True
                if self._stopping.is_due():
                    self._stop()
            self._evaluate_after(position.round_ - 1)
            position.must_evaluate = False
            self._save_between_rounds()
        self._check_weights(epoch)
        self._record_epoch(self._scores[:num_rounds])
        if self._byte_check is not None:
            self._byte_check.end_epoch()
        test = None if self._options.evaluate_every else self._recorder.test[-1]
        self._progress.epoch(epoch, self._recorder.epoch[-1], test, self._optimizer)
        self._scores = self._no_scores()
        self._position = Position(epoch + 1)
        self._save(self)

    def _train_round(self, order: Tensor, epoch: int, round_: int) -> None:
        name = cell_name(self._cell, self._options.has_range)
        self._stopping.begin_round(
            f"{name}, epoch {epoch + 1}, round {round_ + 1}/{self._duration.rounds_of(epoch)}"
        )
        self._set_lr()
        self._diagnosis = self._due_diagnosis()
        began = time.perf_counter()
        mine = self._round(order, round_)
        step_bytes = self._network.ledger.steps[-1].logical.sent_bytes
        self._recorder.seconds.append(time.perf_counter() - began)
        self._recorder.bytes_sent.append(step_bytes)
        self._total_bytes += step_bytes
        finding = self._record_diagnosis()
        for slot, score in mine.items():
            self._scores[round_, slot] = torch.tensor(score, dtype=torch.float64)
        first = next(iter(mine.values()), None)
        step = Step(epoch, round_, first, step_bytes, self._total_bytes, finding)
        self._progress.step(step, self._optimizer)

    def _set_lr(self) -> None:
        """Of the coming round; from its number alone, so that no checkpoint has to know."""
        largest, _ = self._cell
        lr = lr_of_round(
            largest,
            self._options.lr_schedule,
            self._optimizer.round,
            self._duration.num_rounds,
            self._duration.warmup_rounds(self._options.warmup),
        )
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def _due_diagnosis(self) -> Diagnosis | None:
        """Of the coming round, if it is its turn."""
        interval = self._options.diagnose
        if not interval or (self._optimizer.round + 1) % interval:
            return None
        return Diagnosis(self._optimizer, self._gradient.buffer, self._network.bookkeeping)

    def _record_diagnosis(self) -> Finding | None:
        finding = None if self._diagnosis is None else self._diagnosis.finding()
        self._diagnosis = None
        if finding is not None:
            self._recorder.diagnosis_step.append(self._optimizer.round)
            self._recorder.cosine.append(finding.cosine)
            self._recorder.agreement.append(finding.agreement)
        return finding

    def _no_scores(self) -> Tensor:
        """Of this process's workers in the rounds of an epoch."""
        shape = self._plan.num_rounds, len(self._exchange.hosted), len(BatchScore._fields)
        return torch.zeros(shape, dtype=torch.float64)

    def _save_between_rounds(self) -> None:
        interval = self._options.checkpoint_every
        is_last = self._position.round_ == self._duration.rounds_of(self._position.epoch)
        if interval and self._optimizer.round % interval == 0 and not is_last:
            self._save(self)

    def _stop(self) -> NoReturn:
        self._save(self)
        position = self._position
        num_rounds = self._duration.rounds_of(position.epoch)
        name = self._options.exp_name
        named = f"--exp_name {name} " if name else ""
        raise InterruptedRunError(
            f"interrupted in epoch {position.epoch + 1} after round {position.round_}/"
            f"{num_rounds}; a checkpoint is written, {named}--resume goes on from it",
            self._stopping.signal_number,
        )

    def _round(self, order: Tensor, round_: int) -> dict[int, BatchScore]:
        """Every hosted worker's gradient, then one joint step, which compresses the gradient of a
        worker alone; the scores by slot."""
        scores = {}
        compute_seconds = 0.0
        self._buffers.begin_round()
        for slot, worker in enumerate(self._exchange.hosted):
            index = self._plan.batch(order, round_, worker)
            # A worker without a batch must not find the gradients of another one.
            self._optimizer.zero_grad()
            if index is not None:
                began = time.perf_counter()
                scores[slot] = self._work(slot, worker, index)
                compute_seconds += time.perf_counter() - began
            if len(self._exchange.hosted) > 1:
                self._optimizer.compress(slot)
        self._recorder.compute_seconds.append(compute_seconds)
        self._buffers.end_round()
        self._stopping.begin_exchange()
        self._optimizer.step()
        return scores

    def _work(self, slot: int, worker: int, index: Tensor) -> BatchScore:
        """Forward and backward of one worker's batch."""
        seed_everything(
            derive_key(self._options.vote.seed, "forward pass", self._optimizer.round, worker)
        )
        score = self._gradient.compute(slot, index)
        if self._diagnosis is not None:
            self._diagnosis.note_gradient(worker)
        self._attack.apply(self._gradient.buffer, worker, self._optimizer.round)
        self._buffers.end_forward(worker)
        return score

    def _evaluate_after(self, round_: int) -> None:
        """What is due after a round of the epoch; recorded together, as an evaluation that is
        abandoned comes again with the others."""
        is_full = (round_ + 1) * self._plan.num_workers <= self._plan.num_batches
        train = self._evaluate_on("train") if is_full and self._is_train_due() else None
        test = self._evaluate_on("test") if self._is_test_due(round_) else None
        self._num_full_rounds += is_full
        if train is not None:
            self._recorder.batch.append(train)
            self._recorder.batch_step.append(self._optimizer.round)
        if test is not None:
            self._recorder.test.append(test)
            self._recorder.test_step.append(self._optimizer.round)
            if self._options.evaluate_every:
                self._progress.tested(test, self._optimizer)

    def _is_train_due(self) -> bool:
        """After every worker has received another so many batches."""
        interval = self._options.batchwise_evaluation
        return interval > 0 and (self._num_full_rounds + 1) % interval == 0

    def _is_test_due(self, round_: int) -> bool:
        """After so many rounds, or after every epoch; at the end in any case."""
        interval, done = self._options.evaluate_every, self._optimizer.round
        if interval:
            return done % interval == 0 or done == self._duration.num_rounds
        return round_ + 1 == self._duration.rounds_of(self._position.epoch)

    def _check_weights(self, epoch: int) -> None:
        """All processes have the same weights, or the run ends."""
        digest = weights_sha256(dict(self._model.named_parameters()))
        check_agreement(
            self._network.bookkeeping, {f"the weights after epoch {epoch + 1}": digest[:16]}
        )

    def _record_epoch(self, mine: Tensor) -> None:
        """Everybody's training scores of an epoch: (rounds, hosted, 3) from each process."""
        everyones = self._network.bookkeeping.all_gather(mine)
        rounds = [
            [score for score in in_worker_order(everyones[:, round_]) if score.num_predictions]
            for round_ in range(len(mine))
        ]
        num_steps = self._optimizer.round
        self._recorder.epoch.append(sample_weighted(_flatten(rounds)))
        self._recorder.epoch_step.append(num_steps)
        if self._options.batchwise_evaluation <= 0:
            self._recorder.batch.extend(batch_weighted(scores) for scores in rounds)
            self._recorder.batch_step.extend(range(num_steps - len(rounds) + 1, num_steps + 1))

    def _evaluate_on(self, split: str) -> Score:
        self._progress.evaluating("training" if split == "train" else split)
        self._buffers.synchronise()
        items = self._dataset.train if split == "train" else self._dataset.test
        peers = self._network.evaluation
        return evaluate(self._model, items, self._device, peers, lambda: self._stopping.wanted_here)


def _flatten(rounds: list[list[BatchScore]]) -> Iterable[BatchScore]:
    return (score for scores in rounds for score in scores)


def initial_model(options: Options, format: Format) -> nn.Module:
    """For data of a format; on the CPU, the same on every process."""
    return build_model(
        options.model,
        format,
        options.vote.seed,
        size=options.model_size,
        tie_embeddings=options.tie_embeddings,
    )


def batch_plan(options: Options, dataset: Dataset) -> BatchPlan:
    return BatchPlan(
        len(dataset.train),
        options.batch_size * options.accumulate,
        options.num_workers,
        options.vote.seed,
        options.shuffle,
    )


def build_optimizer(
    options: Options, cell: Cell, model: nn.Module, exchange: compsgd.Exchange, compile: str
) -> RoundOptimizer:
    """The optimizer of a cell over the model's named parameters; `compile` is "on", "native" or
    "off"."""
    lr, _ = cell
    kind = OPTIMIZERS[options.optimizer]
    vote = replace(options.vote_of(cell), compile=compile)
    known = {name: getattr(vote, name) for name in kind.known_settings}
    return kind(_groups(options, model), lr, exchange=exchange, **known)


def voted_parameters(options: Options, model: nn.Module) -> list[Tensor]:
    """Those that are not exempt."""
    tables = _exempt_tables(options, model)
    trained = (one for _, one in _trained(model))
    return [one for one in trained if id(one) not in tables and not options.vote.exempts(one)]


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Those that need a gradient, by name; a user's model may have others."""
    return [(name, one) for name, one in model.named_parameters() if one.requires_grad]


def _exempt_tables(options: Options, model: nn.Module) -> set[int]:
    """The identities of the parameters that are exempt because they are embeddings."""
    if not options.exempt_embeddings:
        return set()
    return {id(table) for table in compsgd.embedding_parameters(model)}


def _groups(options: Options, model: nn.Module) -> list[dict[str, Any]]:
    """Named parameters, in two groups where some are exempt as embeddings."""
    tables = _exempt_tables(options, model)
    named = _trained(model)
    if not tables:
        return [{"params": named}]
    return [
        {"params": [one for one in named if id(one[1]) not in tables]},
        {"params": [one for one in named if id(one[1]) in tables], "exempt": True},
    ]

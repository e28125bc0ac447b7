"""Trains a problem with any client that exchanges gradients; leaves what `compsgd train` leaves."""

import json
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Protocol

import numpy as np
import torch
from problem import Problem
from torch import Tensor, nn

from compsgd.comm import Collectives
from compsgd.comm.traffic.cost import ring_all_reduce
from compsgd.files import atomic_write
from compsgd.history import write_histories
from compsgd.rng import derive_key
from compsgd.workers.data.splits import Dataset
from compsgd.workers.train.evaluation import evaluate
from compsgd.workers.train.scores import Score, batch_loss

_CPU = torch.device("cpu")


class Client(Protocol):
    """What exchanges the gradients of workers, and moves the model.

    Attributes:
        hosted: the numbers of the workers in this process.
    """

    hosted: Sequence[int]

    def forward(self, inputs: Tensor) -> Tensor:
        """The model's outputs."""

    def end_backward(self, slot: int) -> None:
        """A hosted worker's gradients are those of the parameters now."""

    def step(self, lr: float) -> None:
        """All hosted workers have their gradients."""

    def bytes_per_step(self) -> float:
        """That a worker has sent on average."""


def train(
    problem: Problem, dataset: Dataset, model: nn.Module, client: Client, peers: Collectives
) -> None:
    """A whole run. Rank 0 writes its results, at its end.

    Args:
        dataset: the problem's.
        model: the problem's, which the client moves.
        peers: all processes, for evaluation.
    """
    began = time.perf_counter()
    losses = train_only(problem, dataset, model, client)
    # (rounds,)
    means = peers.all_gather(torch.tensor(losses, dtype=torch.float64)).mean(dim=(0, 2))
    scores = {
        "train": evaluate(model, dataset.train, _CPU, peers, lambda: False),
        "test": evaluate(model, dataset.test, _CPU, peers, lambda: False),
    }
    if peers.rank == 0:
        numel = sum(parameter.numel() for parameter in model.parameters())
        facts = {"seconds": time.perf_counter() - began, "num_parameters": numel}
        _write(problem, scores, means.tolist(), client.bytes_per_step(), facts)


def train_only(
    problem: Problem, dataset: Dataset, model: nn.Module, client: Client
) -> list[list[float]]:
    """The rounds of a run: losses by round and hosted worker.

    A round for which not every worker has a batch left is passed over: a process of
    DistributedDataParallel cannot sit out.
    """
    batches = problem.batches(dataset)
    num_rounds = problem.num_rounds(batches)
    losses = []
    model.train()
    for round_ in range(num_rounds):
        epoch, in_epoch = divmod(round_, batches.num_rounds)
        if in_epoch == 0:
            order = batches.order(epoch)
        if batches.batch(order, in_epoch, problem.num_workers - 1) is None:
            continue
        mine = []
        for slot, worker in enumerate(client.hosted):
            index = batches.batch(order, in_epoch, worker)
            assert index is not None, "the last worker has one"
            inputs, labels = dataset.train.batch(index, _CPU)
            model.zero_grad()
            torch.manual_seed(derive_key(problem.seed, "forward pass", round_, worker))
            loss, score = batch_loss(client.forward(inputs), labels)
            loss.backward()
            client.end_backward(slot)
            mine.append(score.loss)
        client.step(problem.lr_of(round_, num_rounds))
        losses.append(mine)
    return losses


def _write(
    problem: Problem, scores: Mapping[str, Score], losses: Sequence[float], sent_bytes: float,
    facts: Mapping[str, Any],
) -> None:  # fmt: skip
    """result.json last, as what is finished has one."""
    problem.folder.mkdir(parents=True, exist_ok=True)
    history = {
        "batch_loss_hist": list(losses),
        "batch_step_hist": list(range(1, len(losses) + 1)),
        "bytes_sent_hist": np.full(len(losses), sent_bytes),
    }
    write_histories(problem.folder / "histories.pkl", {(problem.lr, 1.0): history})
    uncompressed = ring_all_reduce(facts["num_parameters"], problem.num_workers)
    cell = {
        "lr": problem.lr,
        **{f"{split}_loss": score.loss for split, score in scores.items()},
        **{f"{split}_acc": score.accuracy for split, score in scores.items()},
        "num_steps": len(losses),
        "bytes_per_worker_and_step": sent_bytes,
        "compression_rate": uncompressed / sent_bytes,
        **facts,
    }
    with atomic_write(problem.folder / "result.json") as file:
        file.write(json.dumps({"cells": [_finite(cell)]}, indent=2).encode())


def _finite(cell: Mapping[str, float]) -> dict[str, float | None]:
    """With null for what JSON has no number for: the loss of a run that diverged."""
    return {name: value if isfinite(value) else None for name, value in cell.items()}

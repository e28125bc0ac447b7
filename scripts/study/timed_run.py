"""One training against the clock, as a rank of `time_to_target.py`: until the held-out metric is
what was asked for. Evaluating takes no time on that clock, nor do the first rounds, in which
kernels are loaded and links measured."""

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ddp_run import DdpClient, Settings
from loop import Client, train_only
from problem import Problem
from torch import Tensor, nn

import compsgd
from compsgd.comm import Collectives, Ledger, Purpose
from compsgd.comm.traffic.kernel_counters import count_bytes, open_sockets
from compsgd.workers.data.splits import ImageFormat, Split
from compsgd.workers.train.evaluation import evaluate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from netlab import answer

_CPU = torch.device("cpu")
_TIMEOUT = timedelta(minutes=30)
_WARM_UP_ROUNDS = 5


class OptimizerClient:
    """The vote as an optimizer of its own, behind backward."""

    def __init__(self, model: nn.Module, lr: float, settings: dict[str, Any]) -> None:
        self.hosted: Sequence[int] = (dist.get_rank(),)
        self._model = model
        self._optimizer = compsgd.CompressedSGDVote(
            list(model.parameters()), lr, process_group=dist.group.WORLD, **settings
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self._model(inputs)
        return outputs

    def end_backward(self, slot: int) -> None:
        """Its gradients are compressed by the step."""

    def step(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def bytes_per_step(self) -> float:
        raise NotImplementedError("the kernel counts")


class AloneClient:
    """A model that learns from its own gradients: what a round takes without communication."""

    def __init__(self, model: nn.Module) -> None:
        self.hosted: Sequence[int] = (dist.get_rank(),)
        self._model = model
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self._model(inputs)
        return outputs

    def end_backward(self, slot: int) -> None:
        """Nothing to exchange."""

    def step(self, lr: float) -> None:
        self._optimizer.step()

    def bytes_per_step(self) -> float:
        return 0.0


def wide_mlp(format: ImageFormat) -> nn.Module:
    """As many parameters as ResNet-18 has: 11.7 M of MNIST, and little to compute."""
    width = 3046
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(format.shape), width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, format.num_classes),
    )


class FirstItems:
    """Of a split, to be evaluated on."""

    def __init__(self, split: Split, count: int | None) -> None:
        self.batch = split.batch
        self._index = split.evaluated()[:count]

    def evaluated(self) -> Tensor:
        return self._index


class TargetReachedError(Exception):
    """The end of a run."""


class TimedClient:
    """A client that is watched: notes seconds, bytes and the metric every so many rounds, and ends
    the run when the metric is what was asked for.

    Attributes:
        hosted: the client's.
        notes: (rounds, seconds, bytes sent by this process, metric); seconds and bytes are those
            of the rounds after the first, which are not timed.
    """

    def __init__(
        self, client: Client, model: nn.Module, held_out: FirstItems, every: int, target: float
    ) -> None:
        """
        Args:
            client: what exchanges gradients.
            model: what it moves.
            held_out: what decides.
            every: rounds between evaluations.
            target: a loss in nats if it is negative, which is to be reached from above; percent
                otherwise, from below.
        """
        self.hosted = client.hosted
        self.notes: list[tuple[int, float, int, float]] = []
        self._client, self._model, self._held_out = client, model, held_out
        self._every, self._target = every, target
        others, size = open_sockets(), dist.get_world_size()
        self._peers = Collectives(Ledger(), Purpose.EVALUATION, size, dist.new_group())
        # Evaluation has a group of its own, which is not counted.
        self._not_counted = open_sockets() - others
        self._rounds, self._seconds, self._sent_bytes = 0, 0.0, 0
        self._resume()

    def forward(self, inputs: Tensor) -> Tensor:
        return self._client.forward(inputs)

    def end_backward(self, slot: int) -> None:
        self._client.end_backward(slot)

    def step(self, lr: float) -> None:
        self._client.step(lr)
        self._rounds += 1
        if self._rounds == _WARM_UP_ROUNDS:
            self._resume()
        if self._rounds % self._every == 0:
            self._evaluate()

    def bytes_per_step(self) -> float:
        return self._sent_bytes / self._rounds

    def _evaluate(self) -> None:
        dist.barrier()
        self._seconds += time.perf_counter() - self._began
        self._sent_bytes += self._sent() - self._before
        score = evaluate(self._model, self._held_out, _CPU, self._peers, lambda: False)
        metric = score.accuracy if self._target > 0 else -score.loss
        self.notes.append((self._rounds, self._seconds, self._sent_bytes, abs(metric)))
        if metric >= self._target:
            raise TargetReachedError
        self._resume()

    def _resume(self) -> None:
        dist.barrier()
        self._before = self._sent()
        self._began = time.perf_counter()

    def _sent(self) -> int:
        """Bytes so far; a hook makes its own group when it is first called."""
        return count_bytes(open_sockets() - self._not_counted).sent_bytes


def run(
    problem: dict[str, Any], client: str, settings: dict[str, Any], every: int, target: float,
    num_held_out: int | None,
) -> dict[str, Any]:  # fmt: skip
    """In a process with the environment of a rank.

    Args:
        problem: the fields of a Problem.
        client: "ddp", "optimizer" or "alone".
        settings: of that client.
        every, target: as of TimedClient.
        num_held_out: so many items of the test split decide, or None for all.
    """
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    paths = {name: Path(problem[name]) for name in ("dataset_root", "log_dir")}
    asked = Problem(**problem | paths)
    dataset = asked.load()
    model = asked.build(dataset)
    clients: dict[str, Callable[[], Client]] = {
        "ddp": lambda: DdpClient(model, Settings(**settings), asked.seed),
        "optimizer": lambda: OptimizerClient(model, asked.lr, settings),
        "alone": lambda: AloneClient(model),
    }
    held_out = FirstItems(dataset.test, num_held_out)
    watched = TimedClient(clients[client](), model, held_out, every, target)
    try:
        train_only(asked, dataset, model, watched)
        is_reached = False
    except TargetReachedError:
        is_reached = True
    dist.barrier()
    dist.destroy_process_group()
    timed_rounds = watched.notes[-1][0] - _WARM_UP_ROUNDS
    return {"is_reached": is_reached, "notes": watched.notes, "timed_rounds": timed_rounds}


if __name__ == "__main__":
    answer(run)

"""A run of Distributed Lion (Liu et al. 2024) with majority vote, all workers in this process.

python scripts/study/lion_run.py --beta1 0.9 --beta2 0.99 --model gpt --dataset text ...

Each worker has a momentum of its own, which never travels; the sign of its interpolation with the
gradient is its ballot. The ballots are those of SignSGD, and so are the bytes; ties are broken at
random, so that a bit is enough.
"""

import sys
from collections.abc import Sequence

import click
import torch
from loop import train
from problem import Problem, problem_options
from torch import Tensor, nn

import compsgd
from compsgd.comm import Collectives, Ledger, Purpose, build_exchange


class LionClient:
    """SignSGD, whose ballots are Lion's."""

    def __init__(
        self, model: nn.Module, num_workers: int, beta1: float, beta2: float, l2: float, seed: int
    ) -> None:
        self._model = model
        self._betas = beta1, beta2
        self._parameters = list(model.parameters())
        self._ledger = Ledger()
        exchange = build_exchange("auto", Collectives(self._ledger, Purpose.GRADIENT, num_workers))
        # Its learning rate comes with every step.
        self._optimizer = compsgd.SignSGD(
            self._parameters, 0.0, exchange=exchange, l2=l2, seed=seed
        )
        self.hosted: Sequence[int] = exchange.hosted
        self._momenta = [list(map(torch.zeros_like, self._parameters)) for _ in self.hosted]

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self._model(inputs)
        return outputs

    def end_backward(self, slot: int) -> None:
        beta1, beta2 = self._betas
        for parameter, momentum in zip(self._parameters, self._momenta[slot], strict=True):
            gradient = parameter.grad
            assert gradient is not None, "all parameters are used"
            parameter.grad = momentum.lerp(gradient, 1 - beta1)
            momentum.lerp_(gradient, 1 - beta2)
        self._optimizer.compress(slot)

    def step(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad()
        self._optimizer.step()

    def bytes_per_step(self) -> float:
        sent = [step.logical.sent_bytes for step in self._ledger.steps]
        return sum(sent) / len(sent)


@click.command()
@problem_options
@click.option("--beta1", type=float, default=0.9)
@click.option("--beta2", type=float, default=0.99)
@click.option("--l2", type=float, default=0.0)
def main(problem: Problem, beta1: float, beta2: float, l2: float) -> None:
    """Trains, and writes result.json and histories.pkl as `compsgd train` does."""
    torch.set_num_threads(1)
    dataset = problem.load()
    model = problem.build(dataset)
    client = LionClient(model, problem.num_workers, beta1, beta2, l2, problem.seed)
    alone = Collectives(Ledger(), Purpose.EVALUATION, problem.num_workers)
    train(problem, dataset, model, client, alone)


if __name__ == "__main__":
    sys.exit(main())

"""How few bits the levels of a vote could take: their entropy, in trainings of the study.

python scripts/study/entropy.py --data data

Levels travel as codes of num_bits bits each; an entropy coder that knows how often each level
occurs, in each piece of 65,536 elements, would take their entropy. Trains with the recommended
settings, and as published, and writes entropy.md.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import click
import torch
from candidates import METHODS, Method
from loop import train_only
from problem import Problem
from tasks import TASKS, Task
from torch import Tensor, nn

import compsgd
from compsgd.comm import Collectives, Ledger, Purpose, build_exchange
from compsgd.files import atomic_write
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.outcome import Outcome
from compsgd.voting.tally import payload
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.path_option import PathOption
from compsgd.workers.report.tables import markdown_table

_PIECE_NUMEL = 1 << 16
_EVERY = 20
_OUT = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "entropy.md"
_METHODS = ("vote1", "vote2", "vote3", "vote3_zeros_kept", "vote3_no_momentum",
            "vote3_as_published", "vote4", "vote8")  # fmt: skip
_HEAD = """# The entropy of levels

Made by `python scripts/study/entropy.py`. Bits an element: what a code takes, and the entropy of
levels in a piece of 65,536 elements, over the ballots of 4 workers and over the vote on them, on
average over a training. What would be left is the share of a `scatter_reduce` that an ideal entropy
coder would send.
"""


def entropy(codes: Tensor) -> float:
    """Bits an element, on average over pieces.

    Args:
        codes: whole numbers from 0, flat.
    """
    total = 0.0
    for piece in codes.split(_PIECE_NUMEL):
        shares = torch.bincount(piece.int()).double() / piece.numel()
        shares = shares[shares > 0]
        total -= piece.numel() * float((shares * shares.log2()).sum())
    return total / codes.numel()


@dataclass
class LookingClient:
    """The study's vote with all workers here, which looks at the levels of some rounds.

    Attributes:
        ballots, votes: entropies, of the workers' levels and of the vote.
    """

    model: nn.Module
    optimizer: compsgd.CompressedSGDVote
    ledger: Ledger
    ballots: list[float] = field(default_factory=list)
    votes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hosted: Sequence[int] = self.optimizer.exchange.hosted
        self.optimizer.probe = self._look

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs)
        return outputs

    def end_backward(self, slot: int) -> None:
        self.optimizer.compress(slot)

    def step(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        self.optimizer.step()

    def bytes_per_step(self) -> float:
        return fmean(step.logical.sent_bytes for step in self.ledger.steps)

    def _look(self, outcome: Outcome) -> None:
        if self.optimizer.round % _EVERY:
            return
        outcome.complete()
        aggregator = self.optimizer.aggregator
        assert isinstance(aggregator, LevelAggregator), "votes are on levels"
        assert outcome.result is not None, "everybody votes"
        self.votes.append(entropy(outcome.result))
        for chunk, rows in zip(aggregator.chunks, outcome.received, strict=True):
            for row in payload(rows, chunk):
                codes = torch.empty(chunk.span.numel, dtype=aggregator.alphabet.code_dtype)
                aggregator.codec.unpack(codes, row)
                self.ballots.append(entropy(codes))


def look(task: Task, method: Method, steps: int, data: Path) -> tuple[float, float, float]:
    """Bits an element: of a code, of ballots and of votes."""
    found = {**task.options, **method.at(task.kind, method.lr(task.kind, 0)), "steps": steps}
    num_workers = int(found["num_workers"])
    names = ("model", "dataset", "batch_size", "lr", "lr_schedule", "warmup")
    problem = Problem(
        **{name: found[name] for name in names},
        model_size=found.get("model_size", "small"), context=found.get("context", 64),
        dataset_root=data / task.data, num_workers=num_workers, epochs=1, steps=steps, seed=0,
        log_dir=Path(), exp_name="",
    )  # fmt: skip
    dataset = problem.load()
    model = problem.build(dataset)
    ledger = Ledger()
    exchange = build_exchange("auto", Collectives(ledger, Purpose.GRADIENT, num_workers))
    decay, known = found["weight_decay"], ("momentum", "num_bits", "rand_zero", "exempt_1d",
                                           "exempt_lr")  # fmt: skip
    optimizer = compsgd.CompressedSGDVote(
        list(model.parameters()), found["lr"], exchange=exchange, decay_min=decay, decay_max=decay,
        **{name: found[name] for name in known if name in found},
    )  # fmt: skip
    client = LookingClient(model, optimizer, ledger)
    train_only(problem, dataset, model, client)
    bits = math.log2(optimizer.aggregator.alphabet.symbols)  # type: ignore[union-attr]
    return bits, fmean(client.ballots), fmean(client.votes)


@click.command()
@click.option("--data", type=PathOption(), default=Path("data"), show_default=True,
              help="Folder of MNIST, FashionMNIST and text.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=_EVERY), default=300, show_default=True,
              help="Of each training.")  # fmt: skip
@click.option("--out", type=PathOption(), default=_OUT, show_default="docs/measurements/entropy.md")
def main(data: Path, steps: int, out: Path) -> None:
    """Trains, and writes the table."""
    torch.set_num_threads(1)
    rows = []
    for task in (TASKS["lm"], TASKS["mnist"]):
        for name in _METHODS:
            bits, ballots, votes = look(task, METHODS[name], steps, data)
            left = (ballots + votes) / (2 * bits)
            figures = [f"{one:.2f}" for one in (bits, ballots, votes)]
            rows.append([f"{task.name}, {name}", *figures, f"{left:.0%}"])
            click.echo("  ".join(rows[-1]))
    out.parent.mkdir(parents=True, exist_ok=True)
    table = markdown_table(["task, method", "code", "ballots", "votes", "left"], rows)
    with atomic_write(out) as file:
        file.write(f"{_HEAD}\n{table}\n".encode())


if __name__ == "__main__":
    execute(main, Path(sys.argv[0]).name)

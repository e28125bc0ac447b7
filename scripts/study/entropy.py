"""How few bits the levels of a vote could take: their entropy, in trainings of the study.

python scripts/study/entropy.py --data data

Levels travel as codes of num_bits bits each; a coder that knows how often each level occurs, in
each piece of 65,536 elements, would take their entropy. Trains with the recommended
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
from compsgd.codec.alphabet import Alphabet
from compsgd.codec.base import CodecSpec
from compsgd.codec.blocks import packed_size
from compsgd.codec.entropy import EntropyCoder, new_buffer
from compsgd.codec.registry import codec_for
from compsgd.comm import Collectives, Ledger, Purpose, build_exchange
from compsgd.files import atomic_write
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.outcome import Outcome
from compsgd.voting.tally import payload
from compsgd.workers.bench.provenance import footer, here_today
from compsgd.workers.commands.execution import execute
from compsgd.workers.commands.path_option import OutputFile, PathOption
from compsgd.workers.report.tables import markdown_table

_PIECE_NUMEL = 1 << 16
_EVERY = 20
_OUT = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "entropy.md"
_METHODS = ("vote1", "vote2", "vote3", "vote3_zeros_kept", "vote3_no_momentum",
            "vote3_as_published", "vote4", "vote8")  # fmt: skip
_HEAD = """# The entropy of levels

Made by `python scripts/study/entropy.py`. Bits an element: what a code takes; the entropy of
levels in a piece of 65,536 elements, of the ballots of 4 workers and of the vote on them; and what
is left by `entropy_coding`, which codes pairs of neighbours up to 4 bits, and so may take less.
Averages over the first {steps} rounds of a training.
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


def coded_bits(codes: Tensor, alphabet: Alphabet) -> float:
    """Bits an element behind our entropy coder; those of packed codes where it has none for
    them."""
    numel = codes.numel()
    packed = torch.empty(packed_size(numel, alphabet), dtype=torch.uint8)
    if not EntropyCoder.suits(alphabet):
        return 8 * packed.numel() / numel
    codec_for(CodecSpec(alphabet, None, "cpu", "native", False)).pack(packed, codes)
    coder = EntropyCoder(alphabet)
    buffer = new_buffer(packed.numel() + coder.extra_bytes(packed.numel()))
    return 8 * coder.encode(buffer, packed, numel) / numel


@dataclass
class LookingClient:
    """The study's vote with all workers here, which looks at the levels of some rounds.

    Attributes:
        ballots, votes: entropies, of the workers' levels and of the vote.
        coded: bits an element behind our entropy coder, of both.
    """

    model: nn.Module
    optimizer: compsgd.CompressedSGDVote
    ledger: Ledger
    ballots: list[float] = field(default_factory=list)
    votes: list[float] = field(default_factory=list)
    coded: list[float] = field(default_factory=list)

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
        of_votes = coded_bits(outcome.result, aggregator.alphabet)
        for chunk, rows in zip(aggregator.chunks, outcome.received, strict=True):
            for row in payload(rows, chunk):
                codes = torch.empty(chunk.span.numel, dtype=aggregator.alphabet.code_dtype)
                aggregator.codec.unpack(codes, row)
                self.ballots.append(entropy(codes))
                # Half of what is sent are ballots, and half votes.
                self.coded.append((coded_bits(codes, aggregator.alphabet) + of_votes) / 2)


def look(task: Task, method: Method, steps: int, data: Path) -> list[float]:
    """Bits an element: of a code, of ballots, of votes, and behind the coder."""
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
    return [bits, *map(fmean, (client.ballots, client.votes, client.coded))]


@click.command()
@click.option("--data", type=PathOption(), default=Path("data"), show_default=True,
              help="Folder of MNIST, FashionMNIST and text.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=_EVERY), default=300, show_default=True,
              help="Of each training.")  # fmt: skip
@click.option("--out", type=OutputFile(), default=_OUT,
              show_default="docs/measurements/entropy.md")  # fmt: skip
def main(data: Path, steps: int, out: Path) -> None:
    """Trains, and writes the table."""
    torch.set_num_threads(1)
    rows = []
    for task in (TASKS["lm"], TASKS["mnist"]):
        for name in _METHODS:
            found = look(task, METHODS[name], steps, data)
            figures = [f"{one:.2f}" for one in found]
            rows.append([f"{task.name}, {name}", *figures, f"{found[-1] / found[0]:.0%}"])
            click.echo("  ".join(rows[-1]))
    table = markdown_table(["task, method", "code", "ballots", "votes", "coded", "left"], rows)
    with atomic_write(out) as file:
        file.write(f"{_HEAD.format(steps=steps)}\n{table}\n\n{footer([here_today()])}\n".encode())


if __name__ == "__main__":
    execute(main, Path(sys.argv[0]).name)

"""`compsgd bytes`: what a step sends, before anything is sent."""

from typing import Any

import click

from compsgd.comm.traffic.cost import StepCost, ring_all_reduce
from compsgd.optim.optimizers import OPTIMIZERS
from compsgd.workers.commands.spreading import (
    CountRange,
    IntegerRange,
    SpreadingCommand,
    flag_option,
    normalise,
)
from compsgd.workers.data.datasets import IMAGE_FORMATS
from compsgd.workers.report.tables import format_table
from compsgd.workers.train.models import IMAGE_MODELS, build_model

_EXCHANGES = ("both", "all_gather", "scatter_reduce")


@click.command(
    "bytes",
    cls=SpreadingCommand,
    context_settings={"token_normalize_func": normalise, "max_content_width": 100},
)
@click.option(
    "--model",
    type=click.Choice(IMAGE_MODELS),
    default="vanilla_cnn",
    show_default=True,
    help="Whose parameters are counted; of gpt they depend on the text: --num_parameters. Of a "
    "model of your own `compsgd train --dry_run` says it.",
)
@click.option(
    "--dataset",
    type=click.Choice(tuple(IMAGE_FORMATS)),
    default="MNIST",
    show_default=True,
    help="The images that the model is made for.",
)
@click.option(
    "--num_parameters",
    type=CountRange(min=1),
    default=None,
    help="So many elements in one tensor, instead of a model, as in 25M.",
)
@click.option(
    "--optimizer",
    type=click.Choice(tuple(OPTIMIZERS)[1:]),
    default="compressed_sgd_vote",
    show_default=True,
    help="sign_sgd sends one bit; compressed_sgd collects sums.",
)
@click.option(
    "--num_bits", type=IntegerRange(1, 8), default=3, show_default=True, help="Bits of a level."
)
@flag_option("--rand_zero", default=True, help="False keeps zeros.")
@click.option(
    "--num_workers",
    type=IntegerRange(min=1),
    multiple=True,
    default=[2, 4, 8, 16, 32],
    show_default=True,
    help="Numbers of workers, as in --num_workers 2 4.",
)
@click.option("--exchange", type=click.Choice(_EXCHANGES), default="both", show_default=True,
              help="Which exchange to show.")  # fmt: skip
def byte_table(**values: Any) -> None:
    """Show what each worker sends in a step, beside a float32 ring all-reduce."""
    sizes = _parameter_sizes(values)
    numel = sum(sizes)
    optimizer = values["optimizer"]
    num_bits = 1 if optimizer == "sign_sgd" else values["num_bits"]
    combine = "mean" if optimizer == "compressed_sgd" else "vote"
    cost = StepCost(numel, len(sizes), num_bits, not values["rand_zero"], combine)
    shown = _EXCHANGES[1:] if values["exchange"] == "both" else (values["exchange"],)
    head = ["workers", "float32 all-reduce"]
    for exchange in shown:
        head += [exchange, "rate"]
    rows = [_row(cost, num_workers, shown) for num_workers in values["num_workers"]]
    click.echo(f"{numel:,} parameters, {optimizer}, {num_bits} bits: bytes per worker and step\n")
    click.echo(format_table(head, rows))
    if "all_gather" in shown:
        click.echo(
            f"\nFrom {cost.break_even()} workers on, all_gather sends no less than a float32 "
            "all-reduce."
        )


def _parameter_sizes(values: dict[str, Any]) -> list[int]:
    if values["num_parameters"] is not None:
        return [values["num_parameters"]]
    model = build_model(values["model"], IMAGE_FORMATS[values["dataset"]], seed=0)
    return [parameter.numel() for parameter in model.parameters()]


def _row(cost: StepCost, num_workers: int, exchanges: tuple[str, ...]) -> list[str]:
    uncompressed = ring_all_reduce(cost.numel, num_workers)
    row = [str(num_workers), f"{uncompressed:,}"]
    for exchange in exchanges:
        compressed = getattr(cost, exchange)(num_workers)
        row += [f"{compressed:,}", f"{uncompressed / compressed:.2f}x" if compressed else "-"]
    return row

"""The cost model against the ledger, and `compsgd bytes`."""

import itertools

import pytest
import torch
from click.testing import CliRunner

import compsgd
from compsgd.comm import Collectives, Ledger, build_exchange
from compsgd.comm.traffic.cost import StepCost, ring_all_reduce
from compsgd.comm.traffic.ledger import Purpose
from compsgd.workers.commands.byte_table import byte_table

SIZES = [1000, 7, 64]
KINDS = [compsgd.CompressedSGD, compsgd.CompressedSGDVote]


@pytest.mark.parametrize("exchange", ["all_gather", "scatter_reduce"])
@pytest.mark.parametrize("optimizer", KINDS)
def test_the_prediction_is_what_the_ledger_records(optimizer, exchange):
    grid = itertools.product((2, 3, 8), (1, 3, 8), (True, False))
    for num_workers, num_bits, rand_zero in grid:
        collectives = Collectives(Ledger(), Purpose.GRADIENT, num_workers)
        parameters = [torch.zeros(size) for size in SIZES]
        parameters[0].grad = torch.ones(SIZES[0])
        one = optimizer(
            parameters, 0.1, num_bits=num_bits, rand_zero=rand_zero,
            exchange=build_exchange(exchange, collectives),
        )  # fmt: skip
        one.compress(0)
        one.step()
        cost = StepCost(
            sum(SIZES),
            len(SIZES),
            num_bits,
            not rand_zero,
            "mean" if optimizer is compsgd.CompressedSGD else "vote",
        )
        (step,) = collectives.ledger.steps
        assert step.logical.sent_bytes == getattr(cost, exchange)(num_workers)


def test_rates_are_those_of_the_design():
    cost = StepCost(10**8, 1, 3, zeros=False)
    for num_workers in (2, 4, 8, 64):
        rate = ring_all_reduce(10**8, num_workers) / cost.scatter_reduce(num_workers)
        assert rate == pytest.approx(32 / 3, rel=1e-4)
    # (N-1) * 3/8 against 2 (N-1)/N * 4: equal at N = 64/3.
    assert cost.break_even() == 22


def run(*args):
    return CliRunner().invoke(byte_table, args)


def test_the_table():
    result = run("--num_workers", "2", "4")
    assert result.exit_code == 0
    rows = [line.split() for line in result.output.splitlines() if line[:1] in {"2", "4"}]
    assert [row[0] for row in rows] == ["2", "4"]
    assert rows[1][1:] == ["19,303,368", "3,619,464", "5.33x", "1,809,780", "10.67x"]
    assert "From 22 workers on" in result.output


def test_a_parameter_count_and_one_exchange():
    result = run("--num_parameters", "1000", "--num-workers", "3", "--exchange", "scatter_reduce")
    assert "1,000 parameters" in result.output
    assert "all_gather" not in result.output


def test_bad_input():
    assert run("--num_bits", "9").exit_code == 2
    assert run("--num_parameters", "0").exit_code == 2
    assert run("--num_workers", "0").exit_code == 2

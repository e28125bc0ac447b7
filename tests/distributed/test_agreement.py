"""Processes that are not alike are found out before the first step, or after the epoch."""

import pytest
import torch
from processes import HELPERS, run_ranks

from compsgd import CompsgdError
from compsgd.comm import Collectives, Ledger
from compsgd.comm.group.agreement import _by_value, check_agreement, slowest
from compsgd.comm.traffic.ledger import Purpose

SCRIPT = HELPERS / "rank_disagrees.py"
OPTIONS = ["--model", "mlp", "--epochs", "3", "--batch_size", "256", "--exp_name", "x"]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("num_bits", "disagree on --num_bits: 3 on ranks 0, 1; 4 on rank 2"),
        ("seed", "disagree on --seed: 3 on ranks 0, 1; 4 on rank 2"),
        ("weights", "disagree on the weights after epoch 2: "),
    ],
)
def test_a_difference_names_the_field_and_the_ranks(way, message, tmp_path):
    ranks = run_ranks(3, SCRIPT, way, *OPTIONS, "--log_dir", str(tmp_path))
    assert [rank.exit_code for rank in ranks] == [1, 1, 1]
    assert message in ranks[0].stderr
    assert ranks[0].stderr.count("\n") == 1
    assert [rank.stderr for rank in ranks[1:]] == ["", ""]
    # A difference in the options is found before anything is created.
    assert (tmp_path / "x").exists() == (way == "weights")
    assert not (tmp_path / "x" / "result.json").exists()


def test_values_are_grouped_by_rank():
    assert _by_value(["a", "b", "a"]) == "a on ranks 0, 2; b on rank 1"


def test_a_process_alone_agrees_with_itself():
    check_agreement(Collectives(Ledger(), Purpose.BOOKKEEPING, 1), {"x": "1"})


def test_a_missing_fact_is_a_difference(monkeypatch):
    answers = [{"x": "1", "y": "2"}, {"x": "1"}]
    monkeypatch.setattr("compsgd.comm.group.agreement.gather_messages", lambda *_: answers)
    with pytest.raises(CompsgdError, match="y: 2 on rank 0; nothing on rank 1"):
        check_agreement(Collectives(Ledger(), Purpose.BOOKKEEPING, 1), {})


def test_the_slowest_counts_one_by_one():
    other = torch.tensor([[0.5, 3.0]], dtype=torch.float64).view(torch.uint8)
    found = slowest(lambda mine: torch.cat([mine[None], other]), [1.0, 2.0])
    assert found == [1.0, 3.0]

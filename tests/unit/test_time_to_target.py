"""`scripts/study/time_to_target.py` and `entropy.py` without a network and without a training."""

import dataclasses
import sys

import pytest
import torch
from processes import ROOT

from compsgd.codec.alphabet import ballot_alphabet
from compsgd.workers.failures import UsageError
from compsgd.workers.prediction.machine import USUAL

sys.path.insert(0, str(ROOT / "scripts" / "bench"))
sys.path.insert(0, str(ROOT / "scripts" / "study"))

from csv_rows import read_rows, write_rows
from entropy import coded_bits, entropy
from time_to_target import ALONE, RACES, RATES, Row, allowed, missing, write_report

ROWS = [
    Row("lm", "1gbit", ALONE, 0.0, True, 50, 2.5, 0.0, 3.5),
    Row("lm", "1gbit", "float32", 0.01, True, 1000, 200.0, 957.4, 1.74),
    Row("lm", "1gbit", "fp16", 0.02, True, 1000, 150.0, 478.7, 1.74),
    Row("lm", "1gbit", "PowerSGD 1", 0.01, False, 1500, 90.0, 30.0, 2.16),
    Row("lm", "1gbit", "vote, 3 bits", 0.003, True, 1000, 100.0, 104.3, 1.74),
]


def test_rows_come_back(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS)
    assert read_rows(path, Row, "x.py") == ROWS
    path.write_text(path.read_text().replace("True", "yes"))
    with pytest.raises(UsageError, match=r"rows\.csv is not what x\.py writes"):
        read_rows(path, Row, "x.py")


def test_what_is_there_is_not_run_again():
    todo = list(missing(("lm",), RATES, (), (), ROWS))
    assert ("lm", "100mbit", "float32", 0.01) in todo
    assert [one for one in todo if one.rate == "1gbit"] == [
        ("lm", "1gbit", "PowerSGD 2", 0.01),
        ("lm", "1gbit", "vote, 1 bit", 0.006),
    ]


def test_other_learning_rates_are_tried_and_not_reported(tmp_path):
    found = list(missing(("lm",), ("1gbit",), ("fp16",), (0.01, 0.02), ROWS))
    assert found == [("lm", "1gbit", "fp16", 0.01)]
    tried = dataclasses.replace(ROWS[2], lr=0.01, seconds=9.0)
    write_report([*ROWS, tried], USUAL, tmp_path / "x.md")
    assert "| 150.0 |" in (tmp_path / "x.md").read_text()
    assert "| 9.0 |" not in (tmp_path / "x.md").read_text()


def test_ratios_are_of_what_has_reached_the_target(tmp_path):
    write_report(ROWS, USUAL, tmp_path / "x.md")
    lines = {
        line.split(" | ")[0].strip("| "): line
        for line in (tmp_path / "x.md").read_text().splitlines()
        if line.startswith("| ")
    }
    assert "| 100.0 | 2.00 | 1.50 | 104.3 | 100 |" in lines["vote, 3 bits"]
    assert lines["PowerSGD 1"].endswith("| 1,500 | 90.0 | - | - | 30.0 | 60 | - | - |")
    assert "2.16 (not reached)" in lines["PowerSGD 1"]
    # Computing alone is 50 ms of the 150 and of the 100.
    ms = allowed(ROWS[-1], 50.0, USUAL)
    assert 50 < ms < 60
    gain = (150 - 100) / (150 - ms)
    assert lines["vote, 3 bits"].endswith(f"| {ms:.0f} | {gain:.0%} |")


def test_all_entrants_of_a_race_train_alike():
    for race in RACES.values():
        fields = {field.name for field in dataclasses.fields(type(race))}
        assert {"entrants", "target"} < fields
        assert {"float32", "fp16"} < set(race.entrants)
        for client, settings, lr in race.entrants.values():
            assert client in ("ddp", "optimizer")
            assert settings
            assert lr > 0


def test_what_a_coder_takes_of_codes():
    few = torch.tensor([3, 3, 3, 4]).repeat(1 << 16).to(torch.uint8)
    assert coded_bits(few, ballot_alphabet(3, zeros=False)) < 1.05
    assert coded_bits(few, ballot_alphabet(3, zeros=True)) == 3.25


def test_entropy():
    assert entropy(torch.zeros(10, dtype=torch.uint8)) == 0
    assert entropy(torch.arange(8).repeat(100)) == pytest.approx(3)
    # Each piece for itself.
    pieces = torch.cat([torch.zeros(1 << 16), torch.tensor([0, 1]).repeat(1 << 14)])
    assert entropy(pieces) == pytest.approx(1 / 3)
    biased = torch.tensor([0, 0, 0, 1]).repeat(100)
    assert entropy(biased) == pytest.approx(0.8112781)

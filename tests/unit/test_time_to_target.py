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
from network_rows import UNSHAPED
from time_to_target import ALONE, RACES, Row, allowed, runs, write_report

HERE = ("2026-11-28", "a PC")


def counted(method, lr, rounds, *, is_reached=True, metric=1.74):
    return Row("lm", UNSHAPED, method, lr, True, is_reached, rounds, rounds - 5, 60.0, 1.0, metric,
               *HERE)  # fmt: skip


def timed(method, lr, seconds, sent_mb):
    return Row("lm", "1gbit", method, lr, False, True, 45, 40, seconds, sent_mb, 3.5, *HERE)


ROWS = [
    counted("float32", 0.01, 1000), counted("fp16", 0.02, 1000),
    counted("PowerSGD 1", 0.01, 1500, is_reached=False, metric=2.16),
    counted("vote, 3 bits", 0.003, 1100),
    timed(ALONE, 0.0, 2.0, 0.0), timed("float32", 0.01, 8.0, 38.296),
    timed("fp16", 0.02, 6.0, 19.148), timed("PowerSGD 1", 0.01, 2.4, 0.8),
    timed("vote, 3 bits", 0.003, 4.0, 4.172),
]  # fmt: skip


def test_rows_come_back(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, Row, ROWS)
    assert read_rows(path, Row, "x.py") == ROWS
    path.write_text(path.read_text().replace("True", "yes"))
    with pytest.raises(UsageError, match=r"rows\.csv is not what x\.py writes"):
        read_rows(path, Row, "x.py")


def test_what_is_run():
    found = list(runs(("lm",), (UNSHAPED, "1gbit"), (), (), is_whole=False))
    there = {row.run for row in ROWS}
    # Rounds are counted once, and rounds are timed over the link.
    assert [one for one in found if one not in there] == [
        ("lm", UNSHAPED, ALONE, 0.0, False),
        ("lm", UNSHAPED, "PowerSGD 2", 0.01, True),
        ("lm", UNSHAPED, "vote, 1 bit", 0.006, True),
        ("lm", "1gbit", "PowerSGD 2", 0.01, False),
        ("lm", "1gbit", "vote, 1 bit", 0.006, False),
    ]
    (whole,) = runs(("lm",), ("1gbit",), ("fp16",), (), is_whole=True)
    assert whole == ("lm", "1gbit", "fp16", 0.02, True)


def table_of(rows, tmp_path):
    """The lines of the report, by their first words."""
    write_report(rows, {"lm": USUAL}, tmp_path / "x.md")
    lines = (tmp_path / "x.md").read_text().splitlines()
    assert lines[-1] == "*2026-11-28, a PC*"
    return {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}


def test_other_learning_rates_are_tried_and_not_reported(tmp_path):
    found = list(runs(("lm",), (UNSHAPED,), ("fp16",), (0.01, 0.02), is_whole=False))
    assert [one.lr for one in found] == [0.01, 0.02]
    tried = [counted("fp16", 0.01, 10), dataclasses.replace(ROWS[6], lr=0.01)]
    assert table_of([*ROWS, *tried], tmp_path) == table_of(ROWS, tmp_path)


def test_ratios_are_of_what_has_reached_the_target(tmp_path):
    lines = table_of(ROWS, tmp_path)
    assert "| 1,100 | 110.0 | 1.82 | 1.36 | 114.7 | 100 |" in lines["vote, 3 bits"]
    assert lines["PowerSGD 1"].endswith("| 1,500 | 90.0 | - | - | 30.0 | 60 | - | - |")
    assert "2.16 (not reached)" in lines["PowerSGD 1"]
    # Computing alone is 50 ms of the 150 and of the 100.
    ms = allowed(ROWS[-1], 50.0, USUAL)
    assert 50 < ms < 60
    gain = (150 - 110) / (150 - 1.1 * ms)
    assert lines["vote, 3 bits"].endswith(f"| {ms:.0f} | {gain:.0%} |")


def test_a_whole_training_stands_beside_what_was_counted(tmp_path):
    whole = Row("lm", "1gbit", "fp16", 0.02, True, True, 1000, 995, 149.25, 476.3, 1.74, *HERE)
    lines = table_of([*ROWS, whole], tmp_path)
    assert "| 1,000 | 150.0 |" in lines["fp16"]
    assert "| 1,000 | 150.0 |" in lines["fp16, all of it"]


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

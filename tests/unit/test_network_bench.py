"""`scripts/bench/network.py` without a network: its rows, what is missing, and what is drawn."""

import sys
from dataclasses import replace

import pytest
from processes import ROOT

from compsgd.workers.failures import UsageError
from compsgd.workers.prediction.machine import USUAL
from compsgd.workers.prediction.prediction import Gradients

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

from csv_rows import read_rows, write_rows
from network import METHODS, missing
from network_report import crossovers, write_report
from network_rows import Cell, Row, link_of
from predictions import errors, gradients_of, predicted
from predictions import write_report as write_errors
from steps import ALONE, CODED, EXCHANGE, STEP

HERE = ("2026-11-28", "a PC")
RATES = ("100mbit", "1gbit", "unshaped")


def measured(method, rate, kind=STEP, num_hosts=2):
    """Computing takes 50 ms, and the bytes their time."""
    sent_bytes = {ALONE: 0, "float32": 4_000_000, "bf16": 2_000_000, "fp16": 2_000_000}.get(
        method, 400_000
    )
    coding_ms = 30 if method.startswith("vote") else 0
    bytes_ms = sent_bytes * 8 / min(link_of(rate).bits_per_s, 1e11) * 1e3
    ms = 50 + bytes_ms + coding_ms
    return Row("gpt", num_hosts, rate, kind, method, ms, 3, sent_bytes, *HERE)


ROWS = [measured(method, rate) for method in METHODS for rate in RATES]


def test_rows_come_back(tmp_path):
    write_rows(tmp_path / "network.csv", Row, ROWS)
    assert read_rows(tmp_path / "network.csv", Row, "network.py") == ROWS
    assert read_rows(tmp_path / "none.csv", Row, "network.py") == []


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "model,num_hosts\n", ""])
def test_a_foreign_file_is_named(text, tmp_path):
    path = tmp_path / "network.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"network.csv is not what network.py writes: its columns"):
        read_rows(path, Row, "network.py")


def test_what_is_there_is_not_measured_again():
    cells = [Cell("gpt", 2, "10mbit"), Cell("gpt", 2, "1gbit")]
    todo = list(missing(cells, ROWS))
    # On the slow link the exchange alone.
    assert [(cell.rate, kind) for cell, kind, _ in todo] == [
        ("10mbit", EXCHANGE), ("1gbit", EXCHANGE),
    ]  # fmt: skip
    assert all(methods == list(METHODS) for _, _, methods in todo)
    there = [measured(method, "1gbit", EXCHANGE) for method in METHODS[1:]]
    (_, (cell, kind, methods)) = missing(cells, ROWS + there)
    assert (cell.rate, kind, methods) == ("1gbit", EXCHANGE, [ALONE])


def test_lines_cross_where_they_meet():
    # Of x and 10 / x, in logarithmic axes.
    ours = [(x, x) for x in (0.1, 1.0, 10.0)]
    others = [(x, 10 / x) for x in (0.1, 1.0, 10.0)]
    ((x, y),) = crossovers(ours, others)
    assert (x, y) == pytest.approx((10**0.5, 10**0.5))
    assert crossovers(ours, [(x, 2 * y) for x, y in ours]) == []
    assert crossovers([], others) == []


def test_the_report_has_a_table_and_figures(tmp_path):
    write_report(ROWS, tmp_path)
    text = (tmp_path / "network.md").read_text()
    assert "## gpt, 2 hosts: whole training step" in text
    assert text.endswith("\n*2026-11-28, a PC*\n")
    (line,) = (line for line in text.splitlines() if line.startswith("| float32 |"))
    # 112 ms with the vote; 370, 210 and 82 with the others.
    assert "| gpt, 2 hosts | 3.30 1.88 0.73 |" in text
    # 320 ms of bytes and 50 of computing.
    assert line.startswith("| float32 | **370** 1.00 0.57 1.00 |")
    for name in ("network_gpt.png", "utilisation_gpt.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_what_is_as_predicted_is_not_away_from_it(tmp_path):
    gradients, rows = Gradients(1_000_000, 20), [measured(ALONE, rate) for rate in RATES]
    for rate in RATES:
        for method in METHODS[1:]:
            row = measured(method, rate)
            one = predicted(row, gradients, USUAL, 50.0, uncoded_bytes=row.sent_bytes)
            assert (one is None) == method.startswith("PowerSGD")
            if method.endswith(CODED):
                assert predicted(row, gradients, USUAL, 50.0, uncoded_bytes=None) is None
            if one is not None:
                away = 1.5 if method == "float32" else 1.1
                rows.append(replace(row, ms=one.step_s * 1e3 / away))
    found = errors(rows, {"gpt": gradients}, {(2, gradients.numel): USUAL})
    assert len(found) == len(rows) - len(RATES)
    for row, error in found.items():
        assert error == pytest.approx(0.5 if row.method == "float32" else 0.1)
    write_errors(found, tmp_path / "x.md")
    text = (tmp_path / "x.md").read_text()
    assert f"{len(found) - 3} of {len(found)} cells are within 20%; half of all are" in text
    assert "| float32 | **+50** | **+50** | **+50** |" in text


def test_gradients_are_those_of_the_models():
    found = gradients_of(["vanilla_cnn", "gpt"])
    assert found["vanilla_cnn"] == Gradients(3_217_226, 6)
    assert found["gpt"].numel > 900_000

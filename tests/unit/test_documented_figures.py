"""Tables that select from measured ones hold what those hold."""

import csv
import re
from decimal import Decimal

import pytest
from processes import ROOT

DOCS = ROOT / "docs"
MEASUREMENTS = DOCS / "measurements"
# Labels of the README: rows of the study on text and on Fashion-MNIST, and of steps of ResNet-18
# between two hosts, of which the faster counts.
README = {
    "float32": ("adamw", "adamw", ["float32"]),
    "16 bit (torch's hooks)": ("fp16", None, ["bf16", "fp16"]),
    "PowerSGD, rank 2 (torch's hook)": ("powersgd2", None, ["PowerSGD 2, one bucket"]),
    "3-bit vote": (
        "hook_adamw_vote3", "vote3", ["vote, 3 bits, all_gather", "vote, 3 bits, scatter_reduce"],
    ),
    "3-bit vote, entropy-coded": (None, None, ["vote, 3 bits, coded"]),
    "1-bit vote": (
        "hook_adamw_vote1", "vote1", ["vote, 1 bit, all_gather", "vote, 1 bit, scatter_reduce"],
    ),
}  # fmt: skip


def tables(path):
    """The cells of all rows of all tables, without emphasis."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-:")]


def says(text, number):
    """Whether that is this number, with as many digits as it has."""
    found = Decimal(re.sub(r"[^\d.+-]", "", text))
    return abs(found - Decimal(str(number))) <= Decimal(5).scaleb(found.as_tuple().exponent - 1)


@pytest.fixture(scope="module")
def study():
    """Of the study, by task: a row a method."""
    sections = re.split(r"(?m)^## (\w+)$", (MEASUREMENTS / "study" / "results.md").read_text())
    found = {}
    for task, text in zip(sections[1::2], sections[2::2], strict=True):
        rows = [line.strip("| ").split(" | ") for line in text.splitlines() if " ± " in line]
        found[task] = {row[0]: row[1:] for row in rows}
    return found


@pytest.fixture(scope="module")
def steps():
    """Milliseconds, and bytes sent, by rate and method."""
    with (MEASUREMENTS / "network.csv").open() as file:
        return {
            (row["rate"], row["method"]): (float(row["ms"]), int(row["sent_bytes"]))
            for row in csv.DictReader(file)
            if (row["model"], row["num_hosts"], row["kind"]) == ("resnet18", "2", "step")
        }


@pytest.mark.parametrize("label", README)
def test_the_table_of_the_readme(label, study, steps):
    (row,) = (row for row in tables(ROOT / "README.md") if row[0] == label)
    on_text, on_fashion, methods = README[label]
    for cell, rate in ((row[2], "1gbit"), (row[3], "100mbit")):
        assert says(cell, min(steps[rate, method][0] for method in methods))
    for cell, task, method in ((row[4], "lm", on_text), (row[5], "fashion", on_fashion)):
        if method is None:
            assert cell in ("-", "the same")
        else:
            assert says(cell, study[task][method][1].split(" ± ")[0])


@pytest.mark.parametrize("label", README)
def test_compressions_of_the_readme(label, steps):
    """An entropy coder's depends on the rounds that a link leaves time for."""
    (row,) = (row for row in tables(ROOT / "README.md") if row[0] == label)
    method = README[label][2][0]
    rates = [steps[rate, "float32"][1] / steps[rate, method][1] for rate in ("1gbit", "100mbit")]
    assert any(says(row[1], rate) for rate in rates)


def test_tables_of_settings_are_those_of_the_study(study):
    measured = [row for task in study.values() for row in task.values()]
    documented = [row for row in tables(DOCS / "choosing_settings.md") if " ± " in "".join(row)]
    assert len(documented) > 30
    for row in documented:
        lr, bytes_, compression = row[1], row[-2], row[-1]
        alike = [one for one in measured if one[0].strip("+!") == lr and one[4] == compression]
        assert alike, row
        assert bytes_ in {one[3] for one in alike}, row
        for mean, deviation in re.findall(r"([\d.]+) ± ([\d.]+)", " ".join(row)):
            pairs = (one[1].split(" ± ") for one in alike)
            assert any(says(mean, one) and says(deviation, two) for one, two in pairs), row


def test_the_best_published_cells_are_reproduced_ones():
    measured = {(row[1], row[2]) for row in tables(MEASUREMENTS / "reproduced.md")}
    documented = [row for row in tables(DOCS / "published_results.md") if len(row) == 5][1:]
    assert len(documented) > 8
    for row in documented:
        assert not row[2] or (row[2], row[3]) in measured, row

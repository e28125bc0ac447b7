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
    "16 bit (torch's hooks)": ("fp16", "fp16", ["bf16", "fp16"]),
    "PowerSGD, rank 2 (torch's hook)": ("powersgd2", "powersgd2", ["PowerSGD 2, one bucket"]),
    "3-bit vote": (
        "hook_adamw_vote3", "vote3", ["vote, 3 bits, all_gather", "vote, 3 bits, scatter_reduce"],
    ),
    "3-bit vote, entropy-coded": (None, None, ["vote, 3 bits, coded"]),
    "1-bit vote": (
        "hook_adamw_vote1", "vote1", ["vote, 1 bit, all_gather", "vote, 1 bit, scatter_reduce"],
    ),
}  # fmt: skip

# Tables of the settings: by how many columns they have beside their labels, and their heads.
TASKS = {(5, "held-out loss"): "lm", (7, "MNIST"): "mnist", (7, "Fashion-MNIST"): "fashion",
         (5, "MNIST"): "mnist_mlp"}  # fmt: skip
METHODS = {
    "AdamW, float32": "adamw",
    "SGD with momentum, float32": "sgdm",
    "SGD, float32": "sgd",
    "DistributedDataParallel, AdamW behind the 3-bit hook": "hook_adamw_vote3",
    "DistributedDataParallel, AdamW behind the 1-bit hook": "hook_adamw_vote1",
    "DistributedDataParallel, AdamW behind torch's fp16 hook": "fp16",
    "the same behind PowerSGD, rank 2": "powersgd2",
    "the same behind PowerSGD, rank 1": "powersgd1",
    "Distributed Lion, majority of signs": "lion",
    "8-bit vote": "vote8",
    "4-bit vote": "vote4",
    "3-bit vote": "vote3",
    "2-bit vote": "vote2",
    "1-bit vote": "vote1",
    "3 bits, the exact mean of the levels instead of the vote": "vote3_mean",
    "3 bits, zeros kept": "vote3_zeros_kept",
    "3 bits, biases voted on, too": "vote3_no_exemption",
    "3 bits, error feedback": "vote3_error_feedback",
    "3 bits, no momentum": "vote3_no_momentum",
    "3 bits, momentum 0.95": "vote3_momentum_0.95",
    "3 bits, decay of the range 0.9": "vote3_decay_0.9",
    "3 bits, decay 0.999": "vote3_decay_0.999",
    "3 bits, decay 1: the range never shrinks": "vote3_decay_1.0",
    "3 bits, l2 0.1": "vote3_l2_0.1",
    "1 bit, error feedback": "vote1_error_feedback",
    "signSGD with momentum (Signum)": "signum",
    "signSGD": "sign_sgd",
    "3 bits as published: decay 0.3, no momentum, constant lr": "vote3_as_published",
}


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
            assert cell == "the same"
        else:
            assert says(cell, study[task][method][1].split(" ± ")[0])


@pytest.mark.parametrize("label", README)
def test_compressions_of_the_readme(label, steps):
    (row,) = (row for row in tables(ROOT / "README.md") if row[0] == label)
    method = README[label][2][0]
    assert says(row[1], steps["1gbit", "float32"][1] / steps["1gbit", method][1])


def test_no_row_of_the_readme_is_left_out():
    (head,) = (row for row in tables(ROOT / "README.md") if row[0] == "gradients travel as")
    rows = [row[0] for row in tables(ROOT / "README.md") if len(row) == len(head)]
    assert rows == [head[0], *README]


def settings_of_the_study():
    """Of choosing_settings.md: label, task, and the cells from the learning rate on."""
    tasks = ()
    for label, *cells in tables(DOCS / "choosing_settings.md"):
        if not label:
            tasks = [TASKS[len(cells), name] for name in cells if (len(cells), name) in TASKS]
        elif label in METHODS:
            lr, *figures, bytes_, compression = cells
            for place, task in enumerate(tasks):
                yield label, task, [lr, *figures[2 * place : 2 * place + 2], bytes_, compression]


@pytest.mark.parametrize(("label", "task", "cells"), list(settings_of_the_study()))
def test_tables_of_settings_are_those_of_the_study(label, task, cells, study):
    lr, figures, difference, bytes_, compression = cells
    measured = study[task][METHODS[label]]
    assert (lr, bytes_, compression) == (measured[0].strip("+!"), measured[3], measured[4])
    for said, number in zip(figures.split(" ± "), measured[1].split(" ± "), strict=True):
        assert says(said, number)
    assert (difference or "-") == measured[2] or says(difference, measured[2])


def test_all_methods_of_the_settings_are_held_against_the_study():
    documented = [row for row in tables(DOCS / "choosing_settings.md") if " ± " in "".join(row)]
    assert {row[0] for row in documented} == set(METHODS)
    assert len(list(settings_of_the_study())) == len(documented) + 4


def test_the_best_published_cells_are_reproduced_ones():
    measured = {(row[1], row[2]) for row in tables(MEASUREMENTS / "reproduced.md")}
    documented = [row for row in tables(DOCS / "published_results.md") if len(row) == 5][1:]
    assert len(documented) > 8
    for row in documented:
        assert not row[2] or (row[2], row[3]) in measured, row


PAGES = sorted(page for page in MEASUREMENTS.rglob("*.md") if page.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_ends_with_when_and_where_it_was_measured(page):
    assert re.search(r"\n\n\*20\d\d-\d\d-\d\d[^\n]*, torch [^\n]*\*\n$", page.read_text())

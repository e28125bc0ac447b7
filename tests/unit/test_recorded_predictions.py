"""`compsgd predict` against what was measured: network.csv and machines/ of the docs."""

import sys
from statistics import median

import pytest
from processes import ROOT

from compsgd.workers.prediction.machine import read_machine

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

from csv_rows import read_rows
from network_rows import Row
from predictions import errors, gradients_of, machine_path, places_of
from steps import STEP

RECORDED = ROOT / "docs" / "measurements"


@pytest.fixture(scope="module")
def found():
    rows = read_rows(RECORDED / "network.csv", Row, "network.py")
    gradients = gradients_of(list(dict.fromkeys(row.model for row in rows)))
    machines = {
        place: read_machine(machine_path(*place, RECORDED)) for place in places_of(rows, gradients)
    }
    return errors(rows, gradients, machines)


def near(errors):
    """The share of them that are within a fifth."""
    return sum(abs(error) <= 0.2 for error in errors) / len(errors)


def test_four_of_five_cells_of_the_largest_model_are_within_a_fifth(found):
    """Between two and four hosts, each over a link on which whole steps were measured."""
    largest = [error for row, error in found.items() if row.model == "resnet18"
               and row.num_hosts < 8 and row.rate != "10mbit"]  # fmt: skip
    assert len(largest) == 272
    assert near(largest) >= 0.8


def test_of_the_largest_model_four_hosts_that_share_cores_are_predicted_too_fast(found):
    shared = [error for row, error in found.items()
              if row.model == "resnet18" and row.num_hosts == 4]  # fmt: skip
    assert len(shared) == 153
    assert -0.4 < median(shared) < 0
    assert max(shared) < 0.2


def test_most_whole_steps_are_within_a_fifth(found):
    steps = [error for row, error in found.items() if row.kind == STEP]
    assert len(steps) == 612
    assert near(steps) >= 0.75
    assert len(found) == 1377
    assert near(found.values()) >= 0.65


def test_steps_of_hosts_with_a_core_each_are_within_a_fifth(found):
    own_core = {row: error for row, error in found.items()
                if row.num_hosts == 2 and row.kind == STEP}  # fmt: skip
    assert len(own_core) == 204
    assert near(own_core.values()) >= 0.95
    assert max(map(abs, own_core.values())) < 0.26
    # Beyond 1 Gbit/s they are bounded by what nobody has measured.
    largest = [error for row, error in own_core.items()
               if row.model == "resnet18" and row.bits_per_s <= 1e9]  # fmt: skip
    assert len(largest) == 34
    assert near(largest) == 1


@pytest.mark.parametrize(("num_hosts", "share"), [(4, 0.8), (8, 0.5)])
def test_steps_of_hosts_that_share_cores_are_predicted_too_fast_and_not_by_half(
    num_hosts, share, found
):
    shared = [error for row, error in found.items()
              if row.num_hosts == num_hosts and row.kind == STEP]  # fmt: skip
    assert len(shared) == 204
    assert -0.2 < median(shared) < 0
    assert min(shared) > -0.5
    assert near(shared) >= share

"""The study: a small one from its first run to its tables and figures, in two goes."""

import csv
import subprocess
import sys

import pytest
from processes import ROOT

pytestmark = pytest.mark.heavy

# A study of two methods on digits, with a learning rate each; as run.py, but for its plan.
SMALL = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import plan, tasks
from dataclasses import replace
from compsgd.workers.commands.execution import execute
plan.REACH = plan.FURTHER = 0
options = {"num_workers": 2, "lr_schedule": "cosine", "model": "mlp", "dataset": "digits",
           "batch_size": 64, "steps": 4, "warmup": 1}
tasks.TASKS["mnist"] = replace(tasks.TASKS["mnist"], options=options, seeds=(0, 1))
import run
execute(run.command((("mnist", ("sgdm", "vote3")),)), "study")
"""


def study(folder, *args):
    command = [sys.executable, "-c", SMALL, str(ROOT / "scripts" / "study"), *args]
    paths = ["--log_dir", str(folder / "runs"), "--out", str(folder / "out")]
    done = subprocess.run(
        [*command, *paths], capture_output=True, text=True, timeout=250, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(folder):
    with (folder / "out" / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_study_goes_on_where_it_was_left(tmp_path):
    study(tmp_path, "--stage", "tune", "--jobs", "2")
    tuned = rows(tmp_path)
    assert [(row["method"], row["stage"]) for row in tuned] == [
        ("sgdm", "tune"), ("vote3", "tune")
    ]  # fmt: skip
    assert "1/1 learning rates tried" in (tmp_path / "out" / "results.md").read_text()
    # What the table has is not run again, whether or not its folder is still there.
    for folder in (tmp_path / "runs" / "mnist" / "sgdm").iterdir():
        folder.rename(tmp_path / folder.name)
    said = study(tmp_path, "--jobs", "2")
    assert said.count(" report_") == 4
    assert "tune_" not in said
    found = rows(tmp_path)
    assert len(found) == 6
    assert [row for row in found if row["stage"] == "tune"] == tuned
    # Learning rates are looked for in runs as long as those that are reported.
    assert {int(row["rounds"]) for row in found} == {4}
    assert all(float(row["metric"]) > 0 for row in found)
    table = (tmp_path / "out" / "results.md").read_text()
    assert table.count("2/2 seeds") == 2
    assert "compression" in table
    drawn = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert drawn == {"mnist_rounds.png", "mnist_bytes.png"}
    assert "figure:" in study(tmp_path, "--jobs", "0")

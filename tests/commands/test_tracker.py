"""`--track`: a user's own tracker is told of every step and epoch, and cannot end a run."""

import importlib.util
import json
import sys

import pytest
from command_line import run
from pages import python_blocks
from processes import ROOT, run_command
from stopping import stopped_after

SETTINGS = ["--model", "mlp", "--epochs", "2", "--batch_size", "256", "--num_workers", "2",
            "--threads", "1", "--exp_name", "x"]  # fmt: skip
# 6 batches for 2 workers.
ROUNDS = 3

TRACKERS = """
import json
from pathlib import Path


class Recorder:
    def __init__(self, run):
        self.path = Path("told.json")
        self.told = json.loads(self.path.read_text()) if self.path.exists() else []
        self.tell("run", run.experiment, run.cell, run.lr, run.range_decay, run.options["epochs"],
                  str(run.folder))
        with (run.folder / "curve.csv").open("a") as curve:
            curve.write("0,0\\n")

    def tell(self, *words):
        self.told.append(words)
        self.path.write_text(json.dumps(self.told))

    def resume(self, epoch, round_):
        self.tell("resume", epoch, round_)

    def step(self, step, optimizer):
        self.tell("step", step.epoch, step.round_, optimizer.round, step.total_bytes > 0,
                  step.score.loss > 0)

    def epoch(self, epoch, train, test, optimizer):
        self.tell("epoch", epoch, train.accuracy > 0, test.accuracy)

    def close(self):
        self.tell("close")


class Breaking:
    def __init__(self, run):
        pass

    def step(self, step, optimizer):
        raise ConnectionError("no route to host")


def refuses(run):
    raise PermissionError("no key")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "trackers.py").write_text(TRACKERS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("trackers", None)


def told(folder):
    return json.loads((folder / "told.json").read_text())


def test_it_is_told_of_everything(folder):
    lrs = ["--lr", "0.003", "0.001"]
    result = run(*SETTINGS, *lrs, "--track", "trackers:Recorder", cwd=folder)
    assert result.exit_code == 0, result.output
    steps = [["step", i // ROUNDS, i % ROUNDS, i + 1, True, True] for i in range(2 * ROUNDS)]
    cells = json.loads((folder / "logs" / "x" / "result.json").read_text())["cells"]
    expected = []
    for lr, cell in zip((0.003, 0.001), cells, strict=True):
        found = [one for one in told(folder) if one[0] == "epoch"]
        epochs = found[: len(found) // 2] if lr == 0.003 else found[len(found) // 2 :]
        assert epochs[-1] == ["epoch", 1, True, cell["test_acc"]]
        expected += [
            ["run", "x", f"lr {lr}, decay 0.99", lr, 0.99, 2, f"logs/x/tracker/lr{lr}_decay0.99"],
            *steps[:ROUNDS], epochs[0], *steps[ROUNDS:], epochs[1], ["close"],
        ]  # fmt: skip
    assert told(folder) == expected


def test_it_is_told_that_a_run_goes_on(folder):
    track = ["--track", "trackers:Recorder"]
    with stopped_after(4):
        assert run(*SETTINGS, *track, cwd=folder).exit_code == 1
    assert told(folder)[-1] == ["close"]
    assert run(*SETTINGS, *track, "--resume", cwd=folder).exit_code == 0
    second = told(folder)[[one[0] for one in told(folder)].index("close") + 1 :]
    assert [one[0] for one in second[:3]] == ["run", "resume", "step"]
    assert second[1] == ["resume", 1, 1]
    assert second[2][3] == 5
    (curve,) = folder.glob("logs/x/tracker/*/curve.csv")
    assert curve.read_text() == "0,0\n" * 2
    assert run(*SETTINGS, *track, "--overwrite", cwd=folder).exit_code == 0
    assert curve.read_text() == "0,0\n"


def test_a_run_goes_on_without_one_that_raises(folder):
    result = run(*SETTINGS, "--track", "trackers:Breaking", cwd=folder)
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "--track trackers:Breaking: step failed: ConnectionError: no route to host ("
    )
    assert line.endswith("; the run goes on without it")
    assert (folder / "logs" / "x" / "result.json").exists()


def test_one_that_cannot_be_made_ends_the_run_on_all_processes(folder):
    command = [sys.executable, str(ROOT / "launch.py"), *SETTINGS, "--track", "trackers:refuses"]
    finished = run_command(*command, cwd=folder)
    assert finished.exit_code == 1
    (line,) = finished.stderr.splitlines()
    assert line.startswith(
        "Error: --track trackers:refuses: calling it with the run failed: PermissionError: no key ("
    )
    assert line.endswith("trackers.py, line 42)")
    assert not (folder / "logs" / "x").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlflow", "'mlflow' is no MODULE:FACTORY"),
        ("trackers:Absent", "--track trackers:Absent: trackers has no Absent"),
        ("absent:Tracker", "--track absent:Tracker: there is no module absent"),
    ],
)
def test_bad_input_is_a_line_and_creates_nothing(name, message, folder):
    for dry in ([], ["--dry_run"]):
        result = run(*SETTINGS, *dry, "--track", name, cwd=folder)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert result.stdout == ""
        assert not (folder / "logs").exists()


def test_the_pages_example_of_a_csv_file(folder):
    (folder / "trackers.py").write_text(python_blocks(ROOT / "docs" / "tracking.md")[1])
    result = run(*SETTINGS, "--track", "trackers:Curve", cwd=folder)
    assert result.exit_code == 0, result.output
    (curve,) = folder.glob("logs/x/tracker/*/curve.csv")
    rows = [line.split(",") for line in curve.read_text().splitlines()]
    assert [row[0] for row in rows] == [str(ROUNDS), str(2 * ROUNDS)]
    (cell,) = json.loads((folder / "logs" / "x" / "result.json").read_text())["cells"]
    assert float(rows[-1][2]) == cell["test_acc"]


@pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="mlflow is not installed")
def test_the_pages_example_with_mlflow(folder):
    code = python_blocks(ROOT / "docs" / "tracking.md")[0]
    (folder / "my_tracking.py").write_text(code)
    files = ["MLFLOW_ALLOW_FILE_STORE=true", "MLFLOW_TRACKING_URI=./mlruns"]
    command = [sys.executable, str(ROOT / "launch.py"), *SETTINGS, "--track", "my_tracking:Tracker"]
    finished = run_command("env", "PYTHONWARNINGS=ignore", *files, *command, cwd=folder)
    assert finished.exit_code == 0, finished.stderr
    (path,) = folder.glob("mlruns/*/*/metrics/test accuracy")
    steps = [line.split()[2] for line in path.read_text().splitlines()]
    assert steps == [str(ROUNDS), str(2 * ROUNDS)]

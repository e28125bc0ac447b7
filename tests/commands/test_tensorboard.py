"""`--tensorboard`: the event files hold what the histories hold, each step once."""

import importlib.util
import json
import time

import numpy as np
import pytest
import torch
from command_line import run
from processes import HELPERS, run_ranks
from silence import silent_log
from stopping import outcome, stopped_after

import compsgd
from compsgd.history import read_histories
from compsgd.workers.report.tensorboard import range_statistics

EPOCHS, ROUNDS = 2, 2
# 6 batches for 4 workers: in every second round two of them receive none.
SETTINGS = ["--model", "mlp", "--batch_size", "256", "--threads", "1", "--epochs", EPOCHS,
            "--num_workers", "4", "--count_usages", "--tensorboard",
            "--range_decay", "1"]  # fmt: skip
CELL = "lr0.003_decay1.0"


def train(folder, *args, lrs=("0.003",), stop_after=None):
    where = ["--log_dir", folder.parent, "--exp_name", folder.name]
    with stopped_after(stop_after):
        return run(*SETTINGS, "--lr", *lrs, *where, *args)


def read_events(folder):
    """The event files of a cell as TensorBoard shows them: (scalars by tag, histograms by tag)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, {tag: events.Histograms(tag) for tag in tags["histograms"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs") / "whole"
    result = train(folder, lrs=("0.003", "0.001"))
    assert result.exit_code == 0, result.output
    return folder


def test_scalars_are_those_of_the_history(finished):
    scalars, _ = read_events(finished / "tensorboard" / CELL)
    history = read_histories(finished / "histories.pkl")[0.003, 1.0]
    steps = list(range(1, EPOCHS * ROUNDS + 1))
    sent = history["bytes_sent_hist"]
    assert scalars["bytes_sent/step"] == list(zip(steps, sent, strict=True))
    assert scalars["bytes_sent/total"] == list(zip(steps, np.cumsum(sent), strict=True))
    assert scalars["workers/taking_part"] == list(zip(steps, [4, 2, 4, 2], strict=True))
    for tag in ("loss/batch", "accuracy/batch"):
        assert [step for step, _ in scalars[tag]] == steps
    for tag, metric in (
        ("loss/train", "avg_epoch_loss_hist"),
        ("accuracy/train", "avg_epoch_acc_hist"),
        ("loss/test", "test_loss_hist"),
        ("accuracy/test", "test_acc_hist"),
    ):
        assert [step for step, _ in scalars[tag]] == [ROUNDS, 2 * ROUNDS]
        assert [value for _, value in scalars[tag]] == pytest.approx(history[metric], rel=1e-6)
    assert {tag for tag in scalars if tag.startswith("range/")} == {
        "range/max_mean", "range/max_median", "range/min_mean", "range/min_median"
    }  # fmt: skip
    assert scalars["range/max_mean"][-1][1] > 0 > scalars["range/min_mean"][-1][1]


def test_histograms_are_the_usages_of_an_epoch(finished):
    _, histograms = read_events(finished / "tensorboard" / CELL)
    usage = read_histories(finished / "histories.pkl")[0.003, 1.0]["bin_usage"]
    assert list(histograms) == ["bin_usage"]
    levels = np.arange(-4, 5)
    for epoch, event in enumerate(histograms["bin_usage"]):
        counts = usage[epoch * ROUNDS : (epoch + 1) * ROUNDS].sum(axis=0)
        seen = event.histogram_value
        assert event.step == (epoch + 1) * ROUNDS
        # Where two bins are not used, TensorBoard's format leaves one of them out.
        shown = dict(zip(seen.bucket_limit, seen.bucket, strict=True))
        assert {edge: n for edge, n in shown.items() if n} == {
            level + 0.5: n for level, n in zip(levels, counts, strict=True) if n
        }
        assert (seen.min, seen.max, seen.num) == (-4, 4, counts.sum())
        assert (seen.sum, seen.sum_squares) == (levels @ counts, levels**2 @ counts)


def test_diagnoses_are_shown(tmp_path):
    assert train(tmp_path / "x", "--diagnose", "2").exit_code == 0
    scalars, _ = read_events(tmp_path / "x" / "tensorboard" / CELL)
    (history,) = read_histories(tmp_path / "x" / "histories.pkl").values()
    assert [step for step, _ in scalars["diagnosis/cosine"]] == history["diagnosis_step_hist"]
    assert [value for _, value in scalars["diagnosis/cosine"]] == pytest.approx(
        history["cosine_hist"], rel=1e-6
    )
    majorities = [value for _, value in scalars["diagnosis/mean_majority"]]
    assert majorities == pytest.approx(history["agreement_hist"] @ [1, 2, 3, 4], rel=1e-6)


def test_the_test_set_has_steps_of_its_own(tmp_path):
    assert train(tmp_path / "x", "--evaluate_every", "3").exit_code == 0
    scalars, _ = read_events(tmp_path / "x" / "tensorboard" / CELL)
    (history,) = read_histories(tmp_path / "x" / "histories.pkl").values()
    assert [step for step, _ in scalars["loss/test"]] == history["test_step_hist"] == [3, 4]
    assert [value for _, value in scalars["accuracy/test"]] == pytest.approx(
        history["test_acc_hist"], rel=1e-6
    )
    assert [step for step, _ in scalars["loss/train"]] == [ROUNDS, 2 * ROUNDS]


def test_every_cell_is_a_run_of_its_own_and_training_is_the_same(finished, tmp_path):
    assert sorted(path.name for path in (finished / "tensorboard").iterdir()) == [
        "lr0.001_decay1.0", CELL
    ]  # fmt: skip
    result = train(tmp_path / "without", "--tensorboard", "false", lrs=("0.003", "0.001"))
    assert result.exit_code == 0
    assert not (tmp_path / "without" / "tensorboard").exists()
    assert outcome(tmp_path / "without") == outcome(finished)
    assert train(finished, "--overwrite", "--tensorboard", "false").exit_code == 0
    assert not (finished / "tensorboard").exists()


def next_second():
    """Event files have their second in their names, by which TensorBoard orders them."""
    time.sleep(1.01 - time.time() % 1)


@pytest.mark.parametrize("rounds", [1, 2])
def test_no_step_twice_after_an_interruption(rounds, tmp_path):
    assert train(tmp_path / "whole").exit_code == 0
    parts = tmp_path / "parts"
    assert train(parts, stop_after=rounds).exit_code == 1
    # Written after the checkpoint, as by a process that was killed: it comes again.
    from torch.utils.tensorboard import SummaryWriter

    next_second()
    with SummaryWriter(str(parts / "tensorboard" / CELL)) as writer:
        writer.add_scalar("loss/batch", 99.0, rounds + 1)
    next_second()
    assert train(parts, "--resume").exit_code == 0
    whole, resumed = (read_events(tmp_path / x / "tensorboard" / CELL) for x in ("whole", "parts"))
    assert resumed == (whole[0], resumed[1])
    assert [(e.step, e.histogram_value) for e in resumed[1]["bin_usage"]] == [
        (e.step, e.histogram_value) for e in whole[1]["bin_usage"]
    ]


def test_only_the_process_that_writes_results_writes(tmp_path):
    args = [
        str(arg) for arg in [*SETTINGS, "--lr", "0.003", "--log_dir", tmp_path, "--exp_name", "x"]
    ]
    (tmp_path / "runs.json").write_text(json.dumps([args]))

    finished = run_ranks(2, HELPERS / "rank_trains.py", str(tmp_path / "runs.json"))
    assert [(rank.exit_code, rank.stderr) for rank in finished] == [(0, "")] * 2
    assert len(list((tmp_path / "x" / "tensorboard").rglob("events*"))) == 1
    scalars, _ = read_events(tmp_path / "x" / "tensorboard" / CELL)
    assert [value for _, value in scalars["workers/taking_part"]] == [4, 2, 4, 2]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    result = run(*SETTINGS, cwd=tmp_path)
    assert result.exit_code == 2
    assert result.output == (
        "Error: --tensorboard needs a package that is not installed: pip install tensorboard\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*args, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", full)
    result = train(tmp_path / "x")
    assert result.exit_code == 1
    assert "tensorboard/lr0.003_decay1.0: No space left on device" in result.stderr
    assert result.stderr.count("\n") == 1


def test_range_statistics_are_those_of_the_hosted_workers():
    parameters = [torch.zeros(4, requires_grad=True), torch.zeros(2, requires_grad=True)]
    optimizer = compsgd.CompressedSGDVote(parameters, 0.1, num_workers=3)
    assert range_statistics(optimizer) == {}
    for worker, gradient in enumerate(([1.0, 2.0, 6.0, 7.0], [-3.0, -2.0, -1.0, 0.0])):
        parameters[0].grad = torch.tensor(gradient)
        optimizer.compress(worker)
    with silent_log():
        optimizer.step()
    # The second parameter and the third worker have seen nothing.
    expected = {"mean": (4.0 - 1.5) / 2, "median": (2.0 - 2.0) / 2}
    assert range_statistics(optimizer) == {
        f"range/{side}_{name}": value for side in ("max", "min") for name, value in expected.items()
    }

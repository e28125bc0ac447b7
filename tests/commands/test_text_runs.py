"""Runs on text: histories, tables and figures of perplexity, and the same bits on any number of
processes."""

import json
import math

import numpy as np
import pytest
from command_line import run
from figures_of_runs import drawing
from processes import HELPERS, run_ranks
from stopping import MEASURED, outcome, stopped_after

from compsgd.history import read_histories
from compsgd.workers.data import stdlib

CONTEXT, BATCH, EPOCHS = 8, 4, 2
# 40 sequences of 8 characters: 10 batches for 2 workers.
ROUNDS = 5
SETTINGS = ["--model", "gpt", "--dataset", "text", "--context", CONTEXT, "--batch_size", BATCH,
            "--epochs", EPOCHS, "--num_workers", 2, "--lr", "0.001", "--threads", 1]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text(("the cat sat on the mat; " * 14)[: 40 * CONTEXT + 1])
    (folder / "validation.txt").write_text("the mat sat on the cat; ")
    return folder


def train(folder, text, *args):
    where = ["--dataset_root", text, "--log_dir", folder.parent, "--exp_name", folder.name]
    return run(*SETTINGS, *where, *args)


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs") / "whole"
    with drawing():
        result = train(folder, text)
    assert result.exit_code == 0, result.output
    return folder, result.output


def history_of(folder):
    (history,) = read_histories(folder / "histories.pkl").values()
    return history


def cell_of(folder):
    (cell,) = json.loads((folder / "result.json").read_text())["cells"]
    return cell


def test_histories_have_perplexities(finished):
    history = history_of(finished[0])
    assert {name: len(values) for name, values in history.items()} == {
        "avg_epoch_loss_hist": EPOCHS, "avg_epoch_perplexity_hist": EPOCHS,
        "batch_loss_hist": EPOCHS * ROUNDS, "batch_perplexity_hist": EPOCHS * ROUNDS,
        "batch_step_hist": EPOCHS * ROUNDS, "bin_usage": 0,
        "test_loss_hist": EPOCHS, "test_perplexity_hist": EPOCHS,
        "bytes_sent_hist": EPOCHS * ROUNDS, "seconds_hist": EPOCHS * ROUNDS,
        "compute_seconds_hist": EPOCHS * ROUNDS,
    }  # fmt: skip
    for start in ("avg_epoch", "batch", "test"):
        losses, perplexities = history[f"{start}_loss_hist"], history[f"{start}_perplexity_hist"]
        assert perplexities == [math.exp(loss) for loss in losses]
    # 11 characters, of which a guess knows nothing.
    assert history["batch_loss_hist"][0] == pytest.approx(math.log(11), abs=0.1)
    assert history["test_loss_hist"][-1] < math.log(11)


def test_the_table_has_nats_and_perplexities(finished):
    folder, output = finished
    cell = cell_of(folder)
    assert cell["test_perplexity"] == math.exp(cell["test_loss"])
    assert cell["test_loss"] == history_of(folder)["test_loss_hist"][-1]
    head, _, row = output[output.index("cell ") :].splitlines()[:3]
    for name in ("train loss (nats)", "test loss (nats)", "train perplexity", "test perplexity"):
        assert name in head
    shown = [cell["train_loss"], cell["test_loss"]]
    expected = [f"{loss:.4f}" for loss in shown] + [f"{math.exp(loss):.2f}" for loss in shown]
    assert row.split()[4:8] == expected
    assert "acc" not in output
    assert f"test loss {cell['test_loss']:.4f}, perplexity {expected[3]}\n" in output


def test_the_folder_has_figures_of_text_and_is_known_as_an_experiment(finished, text):
    folder, output = finished
    plots = sorted(path.name for path in folder.glob("*.png"))
    assert plots == [
        "avg_epoch_loss.png", "avg_epoch_perplexity.png", "batch_loss.png",
        "batch_perplexity.png", "test_loss_by_bytes.png",
    ]  # fmt: skip
    assert all(f"plot:    {folder / name}" in output for name in plots)
    again = train(folder, text, "--resume")
    assert again.exit_code == 0, again.output
    assert f"{cell_of(folder)['test_loss']:.4f}" in again.output


def test_config_names_the_data(finished, text):
    config = json.loads((finished[0] / "config.json").read_text())
    assert len(config["run"]["data_sha256"]) == 64
    assert config["options"]["context"] == CONTEXT


def test_two_processes_end_with_the_same_bits(finished, text, tmp_path):
    args = [*SETTINGS, "--dataset_root", text, "--log_dir", tmp_path, "--exp_name", "two"]
    (tmp_path / "runs.json").write_text(json.dumps([list(map(str, args))]))
    ranks = run_ranks(2, HELPERS / "rank_trains.py", str(tmp_path / "runs.json"))
    assert [(rank.exit_code, rank.stderr) for rank in ranks] == [(0, "")] * 2
    assert cell_of(tmp_path / "two")["weights_sha256"] == cell_of(finished[0])["weights_sha256"]
    ours, theirs = history_of(finished[0]), history_of(tmp_path / "two")
    for metric in ours.keys() - MEASURED:
        np.testing.assert_array_equal(ours[metric], theirs[metric], metric)


def test_sizes_and_ties_make_a_difference(finished, text, tmp_path):
    counts = {cell_of(finished[0])["num_parameters"]}
    for name, args in (
        ("untied", ["--tie_embeddings", "false"]),
        ("base", ["--model_size", "base"]),
    ):
        result = train(tmp_path / name, text, *args, "--epochs", 1, "--batch_size", 20)
        assert result.exit_code == 0, result.output
        counts.add(cell_of(tmp_path / name)["num_parameters"])
    assert len(counts) == 3


def test_tensorboard_shows_perplexity(text, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(tmp_path / "shown", text, "--tensorboard")
    assert result.exit_code == 0, result.output
    (cell,) = (tmp_path / "shown" / "tensorboard").iterdir()
    events = EventAccumulator(str(cell))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"perplexity/batch", "perplexity/train", "perplexity/test"} <= tags
    assert not any(tag.startswith("accuracy") for tag in tags)
    shown = [event.value for event in events.Scalars("perplexity/test")]
    recorded = history_of(tmp_path / "shown")["test_perplexity_hist"]
    assert shown == pytest.approx(recorded, rel=1e-6)


def test_the_standard_library_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib, "_MOST_CHARACTERS", 2000)
    args = ["--dataset", "stdlib", "--dataset_root", tmp_path / "nothing", "--batch_size", 30]
    where = ["--log_dir", tmp_path, "--exp_name", "x"]
    result = run(*SETTINGS, *args, *where, "--epochs", 1)
    assert result.exit_code == 0, result.output


def test_an_interrupted_run_ends_with_the_same_bits(finished, text, tmp_path):
    with stopped_after(3):
        assert train(tmp_path / "x", text).exit_code == 1
    assert train(tmp_path / "x", text, "--resume").exit_code == 0
    assert outcome(tmp_path / "x") == outcome(finished[0])


def test_another_text_is_not_resumed_with(text, tmp_path):
    (tmp_path / "text").mkdir()
    for path in text.iterdir():
        (tmp_path / "text" / path.name).write_text(path.read_text())
    with stopped_after(2):
        assert train(tmp_path / "x", tmp_path / "text").exit_code == 1
    (tmp_path / "text" / "validation.txt").write_text("the mat sat on the cat! ")
    result = train(tmp_path / "x", tmp_path / "text", "--resume")
    assert result.exit_code == 2
    assert "the content of the data set is" in result.output


BAD = {
    "a model of text": (["--dataset", "digits"], "--model gpt is made for text, but --dataset"),
    "a model of images": (["--model", "mlp"], "--model mlp is made for images, but --dataset text"),
    "nothing there": (["--dataset_root", "gone"], "the text gone cannot be read: No such file"),
    "no text there": (["--dataset_root", "."], "--dataset_root . has no .txt file"),
    "a long context": (["--context", "400"], "has 321 characters; a sequence of --context 400"),
    "held-out text": (["--context", "24"], "the held-out text of"),
    "a large batch": (["--batch_size", "41"], "more than the 40 training sequences of text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_created(case, text, tmp_path):
    args, message = BAD[case]
    result = run(*SETTINGS, "--dataset_root", text, *args, cwd=tmp_path)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_text_names_its_file(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"abc\xff")
    result = run(*SETTINGS, "--dataset_root", tmp_path, cwd=tmp_path)
    assert result.exit_code == 2
    assert result.output == f"Error: {tmp_path}/x.txt is no UTF-8: byte 3 is in no character\n"

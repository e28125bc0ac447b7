"""`--diagnose`: exact, the same for any number of processes, and training knows nothing of it."""

import csv
import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from command_line import run
from diagnosing import NUM_WORKERS, ROUNDS, cases, expected, findings
from figures_of_runs import drawing
from processes import HELPERS, run_ranks
from silence import silent_log
from stopping import outcome, stopped_after

from compsgd.history import read_histories
from compsgd.voting.majority import cosine

# 3 rounds an epoch, of 4, 4 and 4 workers; 12 batches.
SETTINGS = ["--model", "mlp", "--epochs", "2", "--batch_size", "128", "--num_workers", "4",
            "--threads", "1", "--compile", "off", "--range_decay", "1", "--momentum", "0",
            "--lr_schedule", "constant", "--warmup", "0"]  # fmt: skip
FOUND = {"diagnosis_step_hist", "cosine_hist", "agreement_hist"}


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    with silent_log():
        yield


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_cosine_and_agreement_against_float64(case):
    found, _ = findings(case)
    for round_ in range(ROUNDS - 1):
        its_cosine, its_agreement, update = found[round_]
        true_cosine, true_agreement = expected(round_, case[2], update)
        assert its_cosine == pytest.approx(true_cosine, rel=1e-6)
        assert its_agreement == true_agreement
    # Nobody took part.
    assert found[-1] is None
    # Both gradients and signs agree somewhere, and not everywhere.
    assert 0 < min(abs(one[0]) for one in found[:-1]) < 1
    assert len(found[0][1]) == NUM_WORKERS


def findings_of_a_rank():
    group = dist.new_group()
    with silent_log():
        return [findings(case, group) for case in cases()]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_find_the_same_by_a_bit(rank_pool, world_size):
    alone = [findings(case)[0] for case in cases()]
    for results in rank_pool.call(findings_of_a_rank, world_size):
        assert [found for found, _ in results] == alone
        # Ballots of 54 elements; a float32 gradient alone would be 216 bytes.
        assert all(0 < sent < 600 for _, bytes_sent in results for sent in bytes_sent)


def test_a_cosine_with_nothing_is_no_number():
    assert np.isnan(cosine(torch.zeros(3), torch.ones(3)))
    assert cosine(torch.tensor([3.0, 0.0]), torch.tensor([-2.0, 0.0])) == -1


def train(folder, *args, stop_after=None):
    where = ["--log_dir", folder.parent, "--exp_name", folder.name]
    with stopped_after(stop_after):
        return run(*SETTINGS, *where, *args)


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs") / "diagnosed"
    with drawing():
        result = train(folder, "--diagnose", "2", "--lr", "0.003", "0.001")
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.figures
def test_training_is_the_same_with_and_without(diagnosed, tmp_path):
    assert train(tmp_path / "x", "--lr", "0.003", "0.001").exit_code == 0
    with_it, without = outcome(diagnosed), outcome(tmp_path / "x")
    assert {name: with_it[name] for name in without} == without
    assert {name.rpartition(" ")[2] for name in set(with_it) - set(without)} == FOUND
    assert not (tmp_path / "x" / "cosine.png").exists()


def test_what_is_recorded(diagnosed):
    for history in read_histories(diagnosed / "histories.pkl").values():
        assert history["diagnosis_step_hist"] == [2, 4, 6]
        assert all(0 < value < 1 for value in history["cosine_hist"])
        assert history["agreement_hist"].shape == (3, 4)
        assert history["agreement_hist"].sum(axis=1) == pytest.approx(1)
        # Of four ballots at least two are of one sign.
        assert not history["agreement_hist"][:, 0].any()
    with (diagnosed / "metrics.csv").open(newline="") as file:
        rows = [row[3:] for row in csv.reader(file) if row[:3] == ["0.003", "1.0", "cosine_hist"]]
    cosines = read_histories(diagnosed / "histories.pkl")[0.003, 1.0]["cosine_hist"]
    assert rows == [[str(s), repr(value)] for s, value in zip((2, 4, 6), cosines, strict=True)]
    assert {"cosine.png", "agreement.png"} < {path.name for path in diagnosed.iterdir()}


@pytest.mark.figures
def test_an_experiment_with_a_diagnosis_can_be_replaced(diagnosed, tmp_path):
    assert train(tmp_path / "x", "--diagnose", "3").exit_code == 0
    assert train(tmp_path / "x", "--overwrite").exit_code == 0
    assert not (tmp_path / "x" / "cosine.png").exists()


@pytest.mark.parametrize("exchange", ["all_gather", "scatter_reduce"])
def test_processes_train_and_find_as_one(exchange, tmp_path):
    args = ["--diagnose", "2", "--exchange", exchange, "--adversaries", "1"]
    assert train(tmp_path / "one", *args).exit_code == 0
    options = [*SETTINGS, *args, "--log_dir", str(tmp_path), "--exp_name", "two"]
    (tmp_path / "runs.json").write_text(json.dumps([options]))
    finished = run_ranks(2, HELPERS / "rank_trains.py", str(tmp_path / "runs.json"))
    assert [(rank.exit_code, rank.stderr) for rank in finished] == [(0, "")] * 2
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")


def test_a_diagnosis_survives_an_interruption(tmp_path):
    assert train(tmp_path / "whole", "--diagnose", "1").exit_code == 0
    assert train(tmp_path / "parts", "--diagnose", "1", stop_after=2).exit_code == 1
    changed = train(tmp_path / "parts", "--diagnose", "2", "--resume")
    assert changed.exit_code == 2
    assert changed.stderr.startswith("Error: --diagnose is 2, but")
    assert train(tmp_path / "parts", "--diagnose", "1", "--resume").exit_code == 0
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_more_rounds_than_there_are(tmp_path):
    assert train(tmp_path / "x", "--diagnose", "100").exit_code == 0
    (history,) = read_histories(tmp_path / "x" / "histories.pkl").values()
    assert [len(history[name]) for name in sorted(FOUND)] == [0, 0, 0]


def test_a_diagnosis_with_momentum_and_feedback(tmp_path):
    args = ["--momentum", "0.9", "--error_feedback", "--lr_schedule", "cosine"]
    assert train(tmp_path / "with", *args, "--diagnose", "2").exit_code == 0
    assert train(tmp_path / "without", *args).exit_code == 0
    with_it, without = outcome(tmp_path / "with"), outcome(tmp_path / "without")
    assert {name: with_it[name] for name in without} == without
    (history,) = read_histories(tmp_path / "with" / "histories.pkl").values()
    assert all(-1 < value < 1 for value in history["cosine_hist"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_float32_has_nothing_to_diagnose(optimizer, tmp_path):
    args = ["--optimizer", optimizer, "--momentum", "0", "--diagnose", "5"]
    result = run(*SETTINGS, *args, cwd=tmp_path)
    assert result.exit_code == 2
    assert f"{optimizer} has no ballots" in result.output
    assert result.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

"""N workers end with the same bits in one process and in many (design, section 6)."""

import itertools
import json
import sys

import numpy as np
import pytest
from processes import HELPERS, run_command, run_ranks

from compsgd.history import read_histories
from compsgd.workers.commands.cli import train

CASES = {"sgd": ["--optimizer", "sgd", "--lr", "0.1"]}
for _optimizer, _num_bits, _rand_zero in [
    *itertools.product(["sign_sgd"], "1", ["true", "false"]),
    *itertools.product(["compressed_sgd", "compressed_sgd_vote"], "13", ["true", "false"]),
]:
    CASES[f"{_optimizer}-{_num_bits}-{_rand_zero}"] = [
        "--optimizer", _optimizer, "--num_bits", _num_bits, "--rand_zero", _rand_zero,
        "--range_decay", "0.7",
    ]  # fmt: skip
CASES["exp"] = ["--binning", "exp", "--num_bits", "5", "--count_usages", "true"]
CASES["all-gather"] = ["--exchange", "all_gather", "--num_bits", "2"]
CASES["evaluating"] = ["--batchwise_evaluation", "2", "--shuffle", "false", "--lr", "1e-3", "2e-3"]
CASES["batch-norm"] = ["--model", "batch_normed:model"]
CASES["original"] = [
    "--model", "mlp", "--momentum", "0", "--lr_schedule", "constant", "--warmup", "0",
    "--range_decay", "1",
]  # fmt: skip
CASES["adamw"] = ["--model", "mlp", "--optimizer", "adamw", "--lr_schedule", "linear"]
CASES["everything"] = [
    "--model", "mlp", "--error_feedback", "--exempt_1d", "--l2", "0.1", "--evaluate_every", "2",
    "--exempt_lr", "0.01", "--warmup", "1",
]  # fmt: skip
CASES["bf16"] = [
    "--model", "mlp", "--amp", "bf16", "--accumulate", "2", "--batch_size", "50", "--clip", "1",
]  # fmt: skip
CASES["fp16"] = ["--model", "mlp", "--amp", "fp16"]
MEASURED = {"seconds_hist", "compute_seconds_hist"}


CASES["eight"] = ["--num_workers", "8", "--model", "mlp", "--epochs", "2"]


def options(name, log_dir):
    # vanilla_cnn has dropout; 1437 images make 12 batches of 128: the last has 29.
    return [
        "--exp_name", name, "--log_dir", str(log_dir), "--epochs", "1", "--threads", "1",
        "--num_workers", "4", "--batch_size", "128", *CASES[name],
    ]  # fmt: skip


def run_all(world_size, folder):
    plan = folder / "plan.json"
    plan.write_text(json.dumps([options(name, folder) for name in CASES]))
    script = HELPERS / "rank_trains.py"
    ranks = run_ranks(world_size, script, str(plan), num_groups=len(CASES))
    assert [(rank.exit_code, rank.stderr) for rank in ranks] == [(0, "")] * world_size
    assert [bool(rank.stdout) for rank in ranks] == [True] + [False] * (world_size - 1)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    for name in CASES:
        train.main(options(name, folder), standalone_mode=False)
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def together(request, tmp_path_factory):
    return run_all(request.param, tmp_path_factory.mktemp(f"of{request.param}"))


def digests(folder, name):
    cells = json.loads((folder / name / "result.json").read_text())["cells"]
    return [cell["weights_sha256"] for cell in cells]


def test_weights_and_histories_are_the_same_bits(alone, together):
    for name in CASES:
        assert digests(alone, name) == digests(together, name), name
        ours, theirs = (read_histories(f / name / "histories.pkl") for f in (alone, together))
        assert ours.keys() == theirs.keys()
        for cell, metric in itertools.product(ours, ours[next(iter(ours))].keys() - MEASURED):
            np.testing.assert_array_equal(ours[cell][metric], theirs[cell][metric], name)


def test_cases_differ_where_they_should(alone):
    finals = {name: digests(alone, name) for name in CASES}
    for rand_zero in ("true", "false"):
        one_bit = finals.pop(f"compressed_sgd_vote-1-{rand_zero}")
        assert one_bit == finals[f"sign_sgd-1-{rand_zero}"]
    everything = [digest for cells in finals.values() for digest in cells]
    assert len(set(everything)) == len(everything)


def test_torchrun_equals_compsgd_train(alone, tmp_path):
    name = "compressed_sgd_vote-3-true"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "4"]
    torchrun += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    finished = run_command(*torchrun, "launch.py", *options(name, tmp_path))
    assert finished.exit_code == 0, finished.stderr
    assert finished.stdout.count("compression") == 1
    assert digests(tmp_path, name) == digests(alone, name)

"""The command: options in every spelling, bad input in one line, results in their folder."""

import csv
import json
import math
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from figures_of_runs import drawing
from processes import ROOT, run_command
from stopping import outcome

from compsgd.comm.group.rank_info import RankInfo
from compsgd.history import read_histories
from compsgd.optim.optimizers import OPTIMIZERS
from compsgd.workers.commands import cli
from compsgd.workers.commands.cli import launch, train
from compsgd.workers.commands.run_options import read_options
from compsgd.workers.commands.spreading import spread_values
from compsgd.workers.data.datasets import IMAGE_FORMATS
from compsgd.workers.recipes import RECIPES
from compsgd.workers.results.digests import weights_sha256
from compsgd.workers.train.models import build_model

QUICK = ["--model", "mlp", "--epochs", "1", "--batch_size", "256", "--threads", "1"]


BAD = {
    "unknown option": (["--learning_rate", "1"], "No such option"),
    "unknown optimizer": (["--optimizer", "adam"], "'adam' is not one of"),
    "unknown exchange": (["--exchange", "ring"], "'ring' is not"),
    "num_bits 0": (["--num_bits", "0"], "0 is not in the range 1<=x<=8"),
    "num_bits 9": (["--num-bits", "9"], "9 is not in the range 1<=x<=8"),
    "clip 0": (["--clip", "0"], "clip is 0; it must be a number above 0"),
    "clip nan": (["--clip", "nan"], "clip is nan"),
    "accumulate 0": (["--accumulate", "0"], "0 is not in the range x>=1"),
    "accumulate huge": (
        ["--accumulate", "99"],
        "--batch_size 64 times --accumulate 99 is more than the 1437 training images",
    ),
    "amp": (["--amp", "fp8"], "'fp8' is not one of"),
    "strict": (["--amp", "fp16", "--strict"], "--strict ends a run at the first gradient that"),
    "decay 0": (["--range_decay", "0"], "range_decay is 0.0"),
    "decay above 1": (["--range_decay", "1.0", "1.5"], "range_decay is 1.5"),
    "decay nan": (["--range-decay", "nan"], "range_decay is nan"),
    "decay_min nan": (["--decay_min", "nan"], "decay_min is nan"),
    "lr nan": (["--lr", "nan"], "lr is nan"),
    "lr negative": (["--lr", "0.1", "-1"], "lr is -1.0"),
    "lr no number": (["--lr", "fast"], "'fast' is not a number"),
    "batch_size 0": (["--batch_size", "0"], "0 is not in the range x>=1"),
    "batch_size huge": (["--batch_size", "99999"], "not one full batch"),
    "num_workers 0": (["--num_workers", "0"], "0 is not in the range x>=1"),
    "epochs 0": (["--epochs", "0"], "0 is not in the range x>=1"),
    "no bool": (["--shuffle", "maybe"], "'maybe' is not a valid boolean"),
    "threads 0": (["--threads", "0"], "0 is not from 1 to 4,096"),
    "threads huge": (["--threads", "3000000000"], "is not from 1 to"),
    "timeout nan": (["--timeout", "nan"], "nan is not from"),
    "timeout huge": (["--timeout", "1e30"], "1e30 is not from 0.001 to 10,000,000"),
    "lr too small": (["--lr", "1e-50"], "lr is 1e-50"),
    "lr too large": (["--lr", "1e39"], "lr is 1e+39"),
    "nccl": (["--backend", "nccl"], "needs a GPU per process"),
    "nothing to verify": (["--verify_bytes"], "needs several processes"),
    "nothing to sweep": (
        ["--decay_min", "1", "--decay_max", "1", "--range_decay", "0.5", "1"],
        "nothing left to sweep",
    ),
    "value twice": (["--lr", "0.1", "0.10"], "names a value twice"),
    "path as a name": (["--exp_name", "../x"], "must be one folder name"),
    "no data": (["--dataset", "MNIST", "--download", "false"], "is not complete in"),
    "seed": (["--seed", "-1"], "-1 is not in the range x>=0"),
    "momentum 1": (["--momentum", "1"], "momentum is 1.0; it must be a number in [0, 1)"),
    "momentum negative": (["--momentum", "-0.1"], "momentum is -0.1"),
    "momentum nan": (["--momentum", "nan"], "momentum is nan"),
    "l2 negative": (["--l2", "-1"], "l2 is -1.0; it must be from 0"),
    "l2 nan": (["--l2", "nan"], "l2 is nan"),
    "beta1 1": (["--optimizer", "adamw", "--beta1", "1"], "beta1 is 1.0"),
    "exempt_lr negative": (["--exempt_lr", "-1"], "exempt_lr is -1.0"),
    "exempt_lr without lr": (["--exempt_lr", "1", "--lr", "0"], "which is 0 here"),
    "exempt_optimizer": (["--exempt_optimizer", "adagrad"], "'adagrad' is not one of"),
    "min_compress_numel negative": (["--min_compress_numel", "-1"], "-1 is not in the range x>=0"),
    "everything exempt": (["--min_compress_numel", "9999999"], "leaves no parameter of"),
    "adamw's momentum": (
        ["--optimizer", "adamw", "--momentum", "0.9"],
        "--momentum is 0.9, but adamw has no momentum",
    ),
    "adamw's feedback": (
        ["--optimizer", "adamw", "--error_feedback"],
        "adamw has no error_feedback",
    ),
    "sgd's feedback": (["--optimizer", "sgd", "--error_feedback"], "sgd has no error_feedback"),
    "sign's feedback": (
        ["--optimizer", "sign_sgd", "--error_feedback"],
        "sign_sgd has no error_feedback",
    ),
    "sgd's beta": (
        ["--optimizer", "sgd", "--beta1", "0.5"],
        "--beta1 is 0.5, but sgd has no beta1",
    ),
    "sgd's exemption": (["--optimizer", "sgd", "--exempt_1d"], "sgd has no exempt_1d"),
    "schedule": (["--lr_schedule", "step"], "'step' is not one of"),
    "warmup negative": (["--warmup", "-1"], "warmup is -1.0"),
    "warmup a half round": (["--warmup", "1.5"], "a share of all rounds below 1, or a number"),
    "warmup nan": (["--warmup", "nan"], "warmup is nan"),
    "warmup inf": (["--warmup", "inf"], "warmup is inf"),
    "warmup too long": (["--steps", "5", "--warmup", "5"], "warm-up longer than the run"),
    "warmup of all": (["--steps", "5", "--warmup", "0.9"], "warm-up longer than the run"),
    "warmup of epochs": (
        ["--epochs", "1", "--warmup", "99"],
        "99 rounds, and one more at least, of 6",
    ),
    "steps 0": (["--steps", "0"], "0 is not in the range x>=1"),
    "steps and epochs": (["--steps", "5", "--epochs", "40"], "give one of both"),
    "evaluate_every negative": (["--evaluate_every", "-1"], "-1 is not in the range x>=0"),
    "diagnosis of adamw": (["--optimizer", "adamw", "--diagnose", "1"], "adamw has no ballots"),
    "diagnosis by hosts": (
        ["--diagnose", "1", "--exchange", "hierarchical"],
        "--diagnose takes everybody's ballots",
    ),
    "counting again by hosts": (
        ["--verify_fraction", "1", "--exchange", "hierarchical"],
        "--verify_fraction takes everybody's ballots",
    ),
    "diagnosis of a part": (["--diagnose", "1", "--exempt_1d"], "looks at all parameters"),
    "diagnosis of large ones": (
        ["--diagnose", "1", "--min_compress_numel", "9"],
        "looks at all parameters",
    ),
    "stray word": (["digits"], "unexpected extra argument"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_created(case, tmp_path):
    args, message = BAD[case]
    if case == "nccl" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU for every process")
    result = run(*args, cwd=tmp_path)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_data_says_where_it_was_looked_for(tmp_path):
    result = run(
        "--dataset", "FashionMNIST", "--download", "false", "--dataset_root", tmp_path / "d"
    )
    assert str(tmp_path / "d") in result.output


def test_an_existing_experiment_is_kept(tmp_path):
    args = [*QUICK, "--log_dir", tmp_path, "--exp_name", "mine"]
    assert run(*args).exit_code == 0
    before = (tmp_path / "mine" / "result.json").read_bytes()
    again = run(*args, "--seed", "1")
    assert again.exit_code == 2
    assert "exists" in again.output
    assert (tmp_path / "mine" / "result.json").read_bytes() == before
    assert run(*args, "--seed", "1", "--overwrite").exit_code == 0
    assert (tmp_path / "mine" / "result.json").read_bytes() != before


def test_an_experiment_without_a_name_gets_a_number_where_there_is_one(tmp_path):
    args = [*QUICK, "--log_dir", tmp_path]
    for _ in range(3):
        result = run(*args)
        assert result.exit_code == 0, result.output
    names = sorted((path.name for path in tmp_path.iterdir()), key=lambda name: (len(name), name))
    assert len(names) == 3
    assert names == [names[0], f"{names[0]}_2", f"{names[0]}_3"]
    assert f"there is an experiment {names[0]}: this one is {names[2]}" in result.output
    # Who wants that one says so.
    assert run(*args, "--overwrite").exit_code == 0
    assert run(*args, "--resume").exit_code == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_only_an_experiment_is_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    result = run(*QUICK, "--log_dir", tmp_path, "--exp_name", "thesis", "--overwrite", "true")
    assert result.exit_code == 2
    assert f"{tmp_path / 'thesis'} holds chapter.txt, which is of no experiment" in result.output
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"


def test_a_foreign_config_does_not_make_an_experiment(tmp_path):
    (tmp_path / "site" / "src").mkdir(parents=True)
    (tmp_path / "site" / "config.json").write_text("{}")
    (tmp_path / "site" / "src" / "main.c").write_text("")
    result = run("--log_dir", tmp_path, "--exp_name", "site", "--overwrite")
    assert result.exit_code == 2
    assert "holds src, which is of no experiment of compsgd; it is not overwritten" in result.stderr
    assert (tmp_path / "site" / "src").is_dir()


def test_what_a_user_put_into_an_experiment_is_kept(tmp_path):
    args = [*QUICK, "--log_dir", tmp_path, "--exp_name", "mine"]
    assert run(*args).exit_code == 0
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    result = run(*args, "--overwrite")
    assert result.exit_code == 2
    assert "holds notes.txt, which is of no experiment" in result.output
    assert (tmp_path / "mine" / "notes.txt").read_text() == "precious"


def test_an_unwritable_log_folder(tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    result = run(*QUICK, "--log_dir", blocker / "logs")
    assert result.exit_code == 2
    assert "cannot write" in result.output
    assert list(tmp_path.iterdir()) == [blocker]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_log_folder_without_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    result = run(*QUICK, "--log_dir", tmp_path / "locked" / "logs")
    assert result.exit_code == 2
    assert "cannot write" in result.output


def test_a_failing_download_is_a_failed_run(tmp_path, monkeypatch):
    def offline(*args, **settings):
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.MNIST", offline)
    result = run("--dataset", "MNIST", "--dataset_root", tmp_path, cwd=tmp_path)
    assert result.exit_code == 1
    assert "no route to host" in result.output
    assert result.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_strict_ends_the_run_in_one_line(tmp_path):
    args = ["--optimizer", "sgd", "--lr", "1e38", "--strict", "true", "--log_dir", tmp_path]
    result = run(*QUICK, *args, "--epochs", "3")
    assert result.exit_code == 1
    assert "is not finite" in result.output.splitlines()[-1]


def test_gradients_that_are_not_finite_are_reported_and_counted(tmp_path):
    args = ["--optimizer", "sgd", "--lr", "1e38", "--log_dir", tmp_path, "--exp_name", "x"]
    result = run(*QUICK, *args, "--epochs", "3")
    assert result.exit_code == 0
    text = (tmp_path / "x" / "result.json").read_text()
    assert "NaN" not in text
    (cell,) = json.loads(text)["cells"]
    assert cell["num_non_finite"] > 0
    assert f"{cell['num_non_finite']} gradients were not finite and sat out." in result.output


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--lr 0.1 0.2 --seed 1", "--lr 0.1 --lr 0.2 --seed 1"),
        ("--lr 0.1 --lr 0.2", "--lr 0.1 --lr 0.2"),
        ("--lr=0.1 0.2", "--lr=0.1 --lr 0.2"),
        ("--range-decay 1 0.5", "--range-decay 1 --range-decay 0.5"),
        ("--lr 1e-3 -1", "--lr 1e-3 --lr -1"),
        ("--seed 1 2", "--seed 1 2"),
        ("--overwrite --lr 1 2", "--overwrite --lr 1 --lr 2"),
    ],
)
def test_several_values_behind_one_option(given, expected):
    assert spread_values(given.split(), {"--lr", "--range_decay"}) == expected.split()


def test_help_lists_the_underscore_spelling_of_every_option():
    result = run("--help")
    assert result.exit_code == 0
    for parameter in train.params:
        assert parameter.hidden or parameter.opts[0] in result.output
        assert "-" not in parameter.opts[0].lstrip("-")


def test_help_has_headings_in_the_order_of_use():
    lines = run("--help").output.splitlines()
    headings = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "Start", "Data", "Model", "Training", "Compression", "Communication", "Results",
        "Robustness", "Options",
    ]  # fmt: skip
    assert [line for line in lines if "--weight_decay" in line] == []


def test_the_originals_name_of_the_range_decay_is_taken_and_told_of(tmp_path):
    options = [*QUICK, "--lr", "0.003", "--log_dir", tmp_path]
    usual = run(*options, "--range_decay", "0.5", "--exp_name", "usual")
    older = run(*options, "--weight_decay", "0.5", "--exp_name", "older")
    assert (usual.exit_code, older.exit_code) == (0, 0)
    assert usual.stderr == ""
    assert older.stderr.splitlines() == [
        "--weight_decay, the original's name of --range_decay, is the decay of the range; it is no "
        "L2, which is --l2"
    ]
    assert outcome(tmp_path / "older") == outcome(tmp_path / "usual")


def test_the_pages_of_options_are_what_the_options_say():
    assert [parameter.opts for parameter in train.params] == [p.opts for p in launch.params]
    sys.path.insert(0, str(ROOT / "scripts"))
    from options_page import pages

    made = pages()
    for name, page in made.items():
        assert (ROOT / "docs" / name).read_text() == page, "python scripts/options_page.py"
    for parameter in train.params:
        assert parameter.hidden == (f"`{parameter.opts[0]}`" not in made["options.md"])
    for command in ("bench codec", "bytes", "plot curves", "predict", "report"):
        assert f"## compsgd {command}\n" in made["commands.md"]


def options_of(*args):
    """What a run would be told."""
    context = train.make_context("train", list(map(str, args)))
    return read_options(dict(context.params), RankInfo())


def test_both_spellings_and_repetition_mean_the_same():
    one = options_of("--lr", "0.003", "0.001", "--num_bits", "2", "--range_decay", "0.5")
    other = options_of("--lr=0.003", "--lr", "0.001", "--num-bits", "2", "--weight-decay", "0.5")
    assert one == other
    assert one.cells() == [(0.003, 0.5), (0.001, 0.5)]
    assert one.vote.num_bits == 2


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    with drawing():
        result = run(
            *QUICK, "--epochs", "2", "--lr", "0.003", "0.001", "--range_decay", "1.0", "0.5",
            "--count_usages", "true", "--num_workers", "4", "--log_dir", folder,
            "--exp_name", "all",
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder / "all", result.output


def test_the_folder_of_an_experiment(experiment):
    path, output = experiment
    assert sorted(entry.name for entry in path.iterdir()) == [
        "avg_epoch_acc.png", "avg_epoch_loss.png", "batch_acc.png", "batch_loss.png",
        "bin_usage.png", "config.json", "histories.pkl", "metrics.csv", "result.json",
        "test_acc_by_bytes.png", "weights",
    ]  # fmt: skip
    for plot in path.glob("*.png"):
        assert plot.read_bytes().startswith(b"\x89PNG")
        assert f"plot:    {plot}" in output


def test_histories_of_a_sweep(experiment):
    path, _ = experiment
    with (path / "histories.pkl").open("rb") as file:
        plain = pickle.load(file)
    histories = read_histories(path / "histories.pkl")
    assert list(plain) == list(histories) == [
        (0.003, 1.0), (0.003, 0.5), (0.001, 1.0), (0.001, 0.5)
    ]  # fmt: skip
    # 1437 images in batches of 256 are 6 batches: 2 rounds of 4 workers, the second half empty.
    num_parameters = 64 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    # Scatter-reduce: a header and a shard of codes to three others, and a shard of the vote.
    # All in whole words of 4 bytes.
    shard = 4 * math.ceil(math.ceil(num_parameters / 4) * 3 / 32)
    sent = 3 * (24 + 4 + shard + shard)
    for history in histories.values():
        assert {name: len(values) for name, values in history.items()} == {
            "avg_epoch_loss_hist": 2, "avg_epoch_acc_hist": 2, "batch_loss_hist": 4,
            "batch_acc_hist": 4, "batch_step_hist": 4, "bin_usage": 4, "test_loss_hist": 2,
            "test_acc_hist": 2, "bytes_sent_hist": 4, "seconds_hist": 4,
            "compute_seconds_hist": 4,
        }  # fmt: skip
        assert history["bytes_sent_hist"] == [sent] * 4
        assert history["bin_usage"].shape == (4, 9)
        assert history["bin_usage"].dtype == np.int64
        assert set(history["bin_usage"].sum(axis=1)) == {num_parameters}
        assert not history["bin_usage"][:, 4].any()
        assert all(0 <= accuracy <= 100 for accuracy in history["test_acc_hist"])
        shares = np.divide(history["compute_seconds_hist"], history["seconds_hist"])
        assert all(0 < share < 1 for share in shares)


def test_weights_belong_to_the_result(experiment):
    path, output = experiment
    result = json.loads((path / "result.json").read_text())
    assert len(result["cells"]) == 4
    for cell in result["cells"]:
        weights = torch.load(path / cell["weights"], weights_only=True)
        assert weights_sha256(weights) == cell["weights_sha256"]
        assert f"{cell['test_acc']:.2f}" in output
    assert result["process_0_bytes_sent"] == {"gradient": 0, "evaluation": 0, "bookkeeping": 0}


def test_config_records_options_and_versions(experiment):
    config = json.loads((experiment[0] / "config.json").read_text())
    shown = {parameter.name for parameter in train.params if not parameter.hidden}
    shown -= {"config", "dry_run"}
    assert set(config["options"]) == shown
    assert config["options"]["lr"] == [0.003, 0.001]
    assert config["versions"]["torch"] == torch.__version__
    assert config["run"]["threads"] == 1


def test_evaluation_every_so_many_batches_of_every_worker(tmp_path):
    # 6 batches for 4 workers: in every second round two workers receive none.
    args = ["--epochs", "5", "--batchwise_evaluation", "2", "--num_workers", "4"]
    assert run(*QUICK, *args, "--log_dir", tmp_path, "--exp_name", "e").exit_code == 0
    (history,) = read_histories(tmp_path / "e" / "histories.pkl").values()
    assert history["batch_step_hist"] == [3, 7]
    assert len(history["batch_loss_hist"]) == len(history["batch_acc_hist"]) == 2


def test_a_run_ends_after_its_steps(tmp_path):
    # 2 rounds an epoch.
    args = [*QUICK[:2], *QUICK[4:], "--steps", "5", "--num_workers", "4", "--count_usages"]
    assert run(*args, "--log_dir", tmp_path, "--exp_name", "s").exit_code == 0
    (history,) = read_histories(tmp_path / "s" / "histories.pkl").values()
    assert history["epoch_step_hist"] == history["test_step_hist"] == [2, 4, 5]
    assert history["batch_step_hist"] == [1, 2, 3, 4, 5]
    by_epoch = ("avg_epoch_loss_hist", "avg_epoch_acc_hist", "test_loss_hist", "test_acc_hist")
    assert [len(history[name]) for name in by_epoch] == [3] * 4
    by_step = ("bytes_sent_hist", "seconds_hist", "bin_usage", "batch_loss_hist")
    assert [len(history[name]) for name in by_step] == [5] * 4
    result = json.loads((tmp_path / "s" / "result.json").read_text())
    assert result["cells"][0]["num_steps"] == 5
    assert result["cells"][0]["test_acc"] == history["test_acc_hist"][-1]
    options = json.loads((tmp_path / "s" / "config.json").read_text())["options"]
    assert (options["steps"], options["epochs"]) == (5, None)


def test_as_many_steps_as_epochs_have_are_the_same_run(tmp_path):
    steps = [*QUICK[:2], *QUICK[4:], "--steps", "4", "--num_workers", "4"]
    epochs = [*QUICK, "--epochs", "2", "--num_workers", "4"]
    digests = set()
    for name, args in (("s", steps), ("e", epochs)):
        assert run(*args, "--log_dir", tmp_path, "--exp_name", name).exit_code == 0
        (cell,) = json.loads((tmp_path / name / "result.json").read_text())["cells"]
        digests.add((cell["weights_sha256"], cell["test_loss"], cell["last_epoch_acc"]))
    assert len(digests) == 1


def test_the_test_set_every_so_many_rounds(tmp_path):
    args = ["--epochs", "3", "--num_workers", "4"]
    assert run(*QUICK, *args, "--log_dir", tmp_path, "--exp_name", "usual").exit_code == 0
    args += ["--evaluate_every", "4"]
    result = run(*QUICK, *args, "--log_dir", tmp_path, "--exp_name", "e")
    assert "round 4/6: test loss" in result.output
    (usual,), (history,) = (
        read_histories(tmp_path / name / "histories.pkl").values() for name in ("usual", "e")
    )
    assert history["test_step_hist"] == [4, 6]
    assert history["test_loss_hist"] == usual["test_loss_hist"][1:]
    assert "test_step_hist" not in usual
    with (tmp_path / "e" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if row[2] == "test_acc_hist"]
    assert [int(row[3]) for row in rows] == [4, 6]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_not_given_is_the_optimizers_recipe(optimizer, tmp_path):
    args = ["--optimizer", optimizer, "--log_dir", tmp_path]
    assert run(*QUICK, *args).exit_code == 0
    (folder,) = tmp_path.iterdir()
    options = json.loads((folder / "config.json").read_text())["options"]
    usual = RECIPES[optimizer].as_options()
    assert {name: options[name] for name in usual} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in usual.items()
    }
    assert f"lr{RECIPES[optimizer].lr}" in folder.name


def test_names_tell_runs_apart():
    ways = [
        [], ["--momentum", "0"], ["--error_feedback"], ["--l2", "0.1"], ["--lr_schedule", "linear"],
        ["--lr_schedule", "constant"], ["--warmup", "1"], ["--exempt_1d"],
        ["--evaluate_every", "2"], ["--min_compress_numel", "500"], ["--exempt_optimizer", "sgd"],
        ["--exempt_lr", "0.1"], ["--accumulate", "2"], ["--amp", "bf16"], ["--clip", "1"],
    ]  # fmt: skip
    names = {options_of("--num_workers", "2", *way).folder_name() for way in ways}
    assert len(names) == len(ways)


def test_a_schedule_and_its_warmup_matter(tmp_path):
    digests = set()
    ways = [["constant", 0], ["constant", 2], ["linear", 0], ["cosine", 0], ["cosine", 0.3]]
    for i, (schedule, warmup) in enumerate(ways):
        args = ["--lr_schedule", schedule, "--warmup", warmup, "--num_workers", "2"]
        assert run(*QUICK, *args, "--log_dir", tmp_path, "--exp_name", i).exit_code == 0
        (cell,) = json.loads((tmp_path / str(i) / "result.json").read_text())["cells"]
        digests.add(cell["weights_sha256"])
    assert len(digests) == len(ways)


def test_a_gradient_is_clipped_to_its_norm(tmp_path):
    """In one step of plain SGD by one worker, weights move by lr times the norm."""
    plain = ["--optimizer", "sgd", "--momentum", "0", "--warmup", "0", "--lr", "0.5", "--steps",
             "1", "--num_workers", "1", "--log_dir", tmp_path]  # fmt: skip
    start = dict(build_model("mlp", IMAGE_FORMATS["digits"], seed=0).named_parameters())

    def movement(name, *args):
        result = run(*QUICK[:2], *QUICK[4:], *plain, *args, "--exp_name", name)
        assert result.exit_code == 0, result.output
        (path,) = (tmp_path / name / "weights").iterdir()
        weights = torch.load(path, weights_only=True)
        return math.sqrt(sum((weights[k] - start[k]).square().sum().item() for k in start))

    usual = movement("usual")
    assert movement("wide", "--clip", "1000") == usual > 0.5 * 0.01
    assert movement("tight", "--clip", "0.01") == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_batches_that_accumulate_are_one_large_batch(tmp_path):
    """Up to rounding, with SGD; the vote's levels jump."""

    def weights(name, *args):
        result = run(*QUICK[:4], "--threads", "1", "--optimizer", "sgd", *args, "--log_dir",
                     tmp_path, "--exp_name", name)  # fmt: skip
        assert result.exit_code == 0, result.output
        (path,) = (tmp_path / name / "weights").iterdir()
        return torch.load(path, weights_only=True)

    pieces = weights("pieces", "--batch_size", "20", "--accumulate", "4")
    whole = weights("whole", "--batch_size", "80")
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    steps = [len(read_histories(tmp_path / name / "histories.pkl")[0.1, 1.0]["bytes_sent_hist"])
             for name in ("pieces", "whole")]  # fmt: skip
    assert steps[0] == steps[1] == 5


def test_help_names_the_recipes():
    words = " ".join(run("--help").output.split())
    assert "depends on the optimizer: 0.1 for sgd; 0.003 for adamw; 0.001 for sign_sgd" in words
    assert "depends on the optimizer: 0.9 for sgd, sign_sgd" in words


def test_sgd_ignores_decay_and_runs_once_per_lr(tmp_path):
    args = ["--optimizer", "sgd", "--lr", "0.1", "0.2", "--range_decay", "1.0", "0.5"]
    assert run(*QUICK, *args, "--log_dir", tmp_path, "--exp_name", "s").exit_code == 0
    histories = read_histories(tmp_path / "s" / "histories.pkl")
    assert list(histories) == [(0.1, 1.0), (0.2, 1.0)]
    assert histories[0.1, 1.0]["bin_usage"].shape == (0,)


def test_all_workers_stay_in_one_process_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert run(*QUICK, "--log_dir", tmp_path, "--exp_name", "s").exit_code == 0
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["run"]["backend"] is None


def test_one_side_of_the_decay_alone(tmp_path):
    digests = set()
    for i, sides in enumerate(([], ["--decay_min", "0.5"], ["--decay_max", "0.5"])):
        args = ["--log_dir", tmp_path, "--exp_name", i, *sides]
        assert run(*QUICK, *args).exit_code == 0
        (cell,) = json.loads((tmp_path / str(i) / "result.json").read_text())["cells"]
        digests.add(cell["weights_sha256"])
    assert len(digests) == 3


def test_a_sweep_that_dies_keeps_what_it_finished(tmp_path, monkeypatch):
    finished = []

    class DiesInTheSecondCell(cli.run.__globals__["CellTraining"]):
        def run(self):
            if finished:
                raise OSError("killed")
            finished.append(super().run())
            return finished[0]

    monkeypatch.setattr("compsgd.workers.train.run.CellTraining", DiesInTheSecondCell)
    sweep = ["--lr", "0.003", "0.001", "--range_decay", "1"]
    result = run(*QUICK, *sweep, "--log_dir", tmp_path, "--exp_name", "d")
    assert isinstance(result.exception, OSError)
    assert list(read_histories(tmp_path / "d" / "histories.pkl")) == [(0.003, 1.0)]
    assert len(json.loads((tmp_path / "d" / "result.json").read_text())["cells"]) == 1


def test_mnist_is_unpacked_and_trains(mnist_root, tmp_path):
    args = ["--dataset", "MNIST", "--dataset_root", mnist_root, "--batch_size", "20000"]
    result = run(*QUICK[:4], *args, "--log_dir", tmp_path / "logs", "--exp_name", "m")
    assert result.exit_code == 0, result.output
    again = run(
        *QUICK[:4], *args, "--log_dir", tmp_path / "logs", "--exp_name", "n", "--download", "false"
    )
    assert again.exit_code == 0, again.output


def test_a_truncated_data_file_is_one_clear_line(mnist_root, tmp_path):
    name = "train-images-idx3-ubyte.gz"
    archive = mnist_root / "MNIST" / "raw" / name
    content = archive.read_bytes()[:100_000]
    archive.unlink()
    archive.write_bytes(content)
    (mnist_root / "MNIST" / "raw" / name.removesuffix(".gz")).write_bytes(b"\0\0\x08\x03 short")
    for other in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (mnist_root / "MNIST" / "raw" / f"{other}-ubyte").write_bytes(b"")
    result = run("--dataset", "MNIST", "--dataset_root", mnist_root, cwd=tmp_path)
    assert result.exit_code == 1
    assert "MNIST" in result.output
    assert result.output.count("\n") == 1


def test_torchrun_prints_bad_input_once(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    torchrun += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    finished = run_command(*torchrun, str(ROOT / "launch.py"), "--num_bits", "9", cwd=tmp_path)
    assert finished.exit_code != 0
    assert finished.stderr.count("9 is not in the range 1<=x<=8") == 1
    assert "exitcode  : 2" in finished.stderr
    assert "execution.py" not in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_num_workers_must_be_a_multiple_of_the_processes(tmp_path, monkeypatch):
    torchrun = {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    result = run("--num_workers", "4", cwd=tmp_path, command=launch)
    assert result.exit_code == 2
    assert "no multiple of the 3 processes" in result.output
    monkeypatch.setenv("RANK", "x")
    result = run("--num_workers", "4", cwd=tmp_path, command=launch)
    assert result.exit_code == 1
    assert result.output.startswith("Error: RANK is 'x' in the environment")


def test_console_script_and_launch_are_there():
    for command in (
        [str(Path(sys.executable).parent / "compsgd"), "train"],
        [sys.executable, "launch.py"],
    ):
        finished = run_command(*command, "--help")
        assert finished.exit_code == 0, finished.stderr
        assert "--num_bits" in finished.stdout

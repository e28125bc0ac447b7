"""Runs of a user's own model on a user's own data."""

import json
import sys

import pytest
from command_line import run
from pages import python_blocks
from processes import ROOT, run_command
from stopping import outcome, stopped_after

MODULE = """
import random
import torch
from torch import nn

class Points(torch.utils.data.Dataset):
    classes = ("a", "b", "c")
    def __init__(self, number, seed):
        self.values = torch.randn(number, 5, generator=torch.Generator().manual_seed(seed))
    def __len__(self):
        return len(self.values)
    def __getitem__(self, index):
        noise = 0.1 * torch.rand(5) + 0.1 * random.random()
        return self.values[index] + noise, int(self.values[index, :3].argmax())

def data(root):
    return Points(96, 0), Points(32, 1)

def model(format):
    net = nn.Sequential(
        nn.Linear(*format.shape, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(),
        nn.Linear(8, format.num_classes),
    )
    net[0].bias.requires_grad_(False)
    return net

def wrong_classes(format):
    return nn.Linear(*format.shape, format.num_classes + 1)

def wrong_input(format):
    return nn.Linear(7, format.num_classes)

def no_module(format):
    return 5

def doubles(format):
    return nn.Linear(*format.shape, format.num_classes).double()

def nothing_to_train(format):
    return nn.Flatten()
"""
OWN = ["--model", "own_runs:model", "--dataset", "own_runs:data"]
SETTINGS = ["--epochs", 2, "--batch_size", 8, "--num_workers", 2, "--lr", "0.01", "--threads", 1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_runs.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own_runs", None)


def train(folder, name, *args):
    result = run(*OWN, *SETTINGS, "--exp_name", name, *args, cwd=folder)
    assert result.exit_code == 0, result.output
    return outcome(folder / "logs" / name)


def test_it_learns_and_resumes_to_the_same_bits(folder):
    whole = train(folder, "whole")
    with stopped_after(7):
        assert run(*OWN, *SETTINGS, "--exp_name", "parts", cwd=folder).exit_code == 1
    assert train(folder, "parts", "--resume") == whole


@pytest.mark.heavy
def test_the_same_bits_between_processes(folder):
    alone = train(folder, "alone")
    command = [sys.executable, str(ROOT / "launch.py"), *OWN, *map(str, SETTINGS)]
    finished = run_command(*command, "--exp_name", "launched", cwd=folder)
    assert finished.exit_code == 0, finished.stderr
    assert outcome(folder / "logs" / "launched") == alone


def test_the_folder_is_named_after_both(folder):
    assert run(*OWN, *SETTINGS, cwd=folder).exit_code == 0
    (made,) = (folder / "logs").iterdir()
    assert made.name.startswith("compressed_sgd_vote_own_runs.data_own_runs.model_B8_e2")


def test_the_pages_example(folder):
    code = python_blocks(ROOT / "docs" / "own_model_and_data.md")[0]
    (folder / "my_training.py").write_text(code)
    own = ["--model", "my_training:model", "--dataset", "my_training:data", "--epochs", 1]
    result = run(*own, "--exp_name", "x", cwd=folder)
    sys.modules.pop("my_training")
    assert result.exit_code == 0, result.output
    (cell,) = json.loads((folder / "logs" / "x" / "result.json").read_text())["cells"]
    assert cell["test_acc"] > 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "own_runs:wrong_classes"], "own_runs:wrong_classes makes (2, 4) of inputs"),
        (
            ["--model", "own_runs:wrong_input"],
            "with inputs of shape (2, 5) failed: RuntimeError: mat1",
        ),
        (["--model", "own_runs:no_module"], "returns a int; it must return a torch.nn.Module"),
        (["--model", "own_runs:nothing_to_train"], "has no parameter to train"),
        (["--model", "own_runs:doubles"], "has parameters of torch.float64; all must be float32"),
        (["--model", "own_runs:absent"], "--model own_runs:absent: own_runs has no absent"),
        (["--model", "vanilla_cnn"], "has inputs of shape (5,) in 3 classes: MODULE:FACTORY makes"),
        (["--model", "gpt"], "--model gpt is made for --dataset text or stdlib"),
        (["--model", "own runs:x"], "is no MODULE:FACTORY"),
        (["--dataset", "absent:data"], "--dataset absent:data: there is no module absent"),
        (["--dataset", "folder"], "has no folder train"),
        (["--image_size", "8"], "--image_size is for --dataset folder"),
        (["--dataset", "MNISTT"], "'MNISTT' is not one of 'digits', 'MNIST'"),
    ],
)
def test_bad_input_is_a_line_and_creates_nothing(options, message, folder):
    result = run(*OWN, *SETTINGS, *options, cwd=folder)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (folder / "logs").exists()

"""The runs of the study that are not of `compsgd train`: alike, but for the exchange."""

import json
import sys

import pytest
from processes import ROOT, run_command

from compsgd.history import read_histories

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

from netlab import Place, ask_ranks

pytestmark = pytest.mark.heavy

STUDY = ROOT / "scripts" / "study"
TRAIN = ("-m", "compsgd", "train", "--threads", "1")
DDP, LION = (str(STUDY / "ddp_run.py"),), (str(STUDY / "lion_run.py"),)
ADAMW = ("--lr", "0.001", "--beta2", "0.99", "--l2", "0.01")
VOTE = ("--hook", "vote", "--momentum", "0.9", "--weight_decay", "0.99", "--exempt_1d", "true")
NUMEL = 8 * 8 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10


def run(folder, name, program, *options):
    """The summary of a run, and its loss by round. 24 batches an epoch: both workers always have
    one."""
    alike = ["--model", "mlp", "--dataset", "digits", "--batch_size", "60", "--num_workers", "2",
             "--steps", "20", "--lr_schedule", "cosine", "--warmup", "4"]  # fmt: skip
    done = run_command(
        sys.executable, "-W", "ignore", *program, *alike, *options, "--log_dir", str(folder),
        "--exp_name", name,
    )  # fmt: skip
    assert done.exit_code == 0, done.stdout + done.stderr
    (cell,) = json.loads((folder / name / "result.json").read_text())["cells"]
    (history,) = read_histories(folder / name / "histories.pkl").values()
    return cell, list(history["batch_loss_hist"])


def test_plain_ddp_is_the_commands_adamw(tmp_path):
    ours, our_losses = run(tmp_path, "ours", TRAIN, "--optimizer", "adamw", *ADAMW)
    theirs, their_losses = run(tmp_path, "theirs", DDP, "--outer", "adamw", *ADAMW)
    assert their_losses == pytest.approx(our_losses, rel=1e-4)
    for name in ("train_loss", "test_loss", "train_acc", "test_acc"):
        assert theirs[name] == pytest.approx(ours[name], rel=1e-3), name
    assert ours["num_parameters"] == theirs["num_parameters"] == NUMEL
    assert theirs["bytes_per_worker_and_step"] == 4 * NUMEL
    # Ours carries a header.
    assert ours["bytes_per_worker_and_step"] == pytest.approx(4 * NUMEL, rel=0.01)


@pytest.mark.parametrize(
    ("program", "options", "bits"),
    [
        (DDP, ("--hook", "fp16", *ADAMW), 16),
        (DDP, ("--hook", "powersgd", "--outer", "sgd", "--lr", "0.05"), None),
        (DDP, (*VOTE, "--num_bits", "3", "--beta1", "0", *ADAMW), 3),
        (LION, ("--lr", "0.001", "--l2", "0.05"), 1),
    ],
    ids=["fp16", "powersgd", "vote", "lion"],
)
def test_others_learn_with_fewer_bytes(program, options, bits, tmp_path):
    cell, losses = run(tmp_path, "run", program, *options)
    assert len(losses) == cell["num_steps"] == 20
    assert losses[-1] < losses[0]
    sent = cell["bytes_per_worker_and_step"]
    assert cell["compression_rate"] == pytest.approx(4 * NUMEL / sent, rel=1e-3)
    if bits is None:
        assert sent < 2 * NUMEL
    else:
        # Codes, and at most the vectors in float32 with a header and scales.
        assert bits * NUMEL / 8 <= sent < bits * NUMEL / 8 + 4 * (256 + 128 + 10) + 300


@pytest.mark.parametrize(
    ("client", "target", "is_reached"),
    [("ddp", 1.0, True), ("optimizer", -1e-9, False), ("alone", -1e-9, False)],
)
def test_a_race_against_the_clock(client, target, is_reached):
    """On loopback; to an accuracy, which is reached early, or to a loss that cannot be."""
    settings = {
        "ddp": {
            "hook": "vote", "num_bits": 3, "momentum": 0.9, "weight_decay": 0.99,
            "exempt_1d": True, "powersgd_rank": 1, "outer": "adamw", "outer_momentum": 0.0,
            "beta1": 0.0, "beta2": 0.99, "l2": 0.0,
        },
        "optimizer": {"num_bits": 3, "momentum": 0.9, "exempt_1d": True, "exempt_lr": 0.004},
        "alone": {},
    }[client]  # fmt: skip
    problem = {
        "model": "mlp", "model_size": "small", "context": 64, "dataset": "digits",
        "dataset_root": "", "batch_size": 60, "num_workers": 2, "epochs": 1, "steps": 16,
        "lr": 0.001, "lr_schedule": "constant", "warmup": 0.0, "seed": 0, "log_dir": "",
        "exp_name": "",
    }  # fmt: skip
    asked = {"problem": problem, "client": client, "settings": settings, "every": 8,
             "target": target, "num_held_out": None}  # fmt: skip
    found = ask_ranks([Place()] * 2, STUDY / "timed_run.py", asked)
    assert found["is_reached"] == is_reached
    assert [rounds for rounds, *_ in found["notes"]] == ([8] if is_reached else [8, 16])
    assert found["timed_rounds"] == (3 if is_reached else 11)
    for rounds, seconds, sent_bytes, metric in found["notes"]:
        assert min(seconds, metric) > 0
        # A ballot and a result of 3 bits each, of half of all elements; and messages' headers.
        share = sent_bytes / ((rounds - 5) * NUMEL * 3 / 8)
        assert share < 0.05 if client == "alone" else 0.9 < share < 1.4

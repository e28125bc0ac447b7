"""Files of a run that are well formed and wrong: one line that names file and field."""

import hashlib
import json
import shutil

import pytest
import torch
from command_line import run
from mutations import mutations
from stopping import stopped_after

from compsgd import CompsgdError
from compsgd.comm import Collectives, Ledger
from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.traffic.ledger import Purpose
from compsgd.kinds import ANYTHING
from compsgd.workers.commands import cli
from compsgd.workers.commands.run_options import read_options
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.results.formats import CONFIG, read_checked, result_format
from compsgd.workers.train.cell_format import SharedFormat, worker_format
from compsgd.workers.train.checkpoint import Checkpoints, read_tensors
from compsgd.workers.train.duration import Duration

QUICK = ["--model", "mlp", "--epochs", "1", "--batch_size", "256", "--num_workers", "2",
         "--threads", "1", "--compile", "off", "--exp_name", "x", "--lr", "0.1"]  # fmt: skip
CELLS = [(0.1, 0.99)]
# Deeper than the stack: no writer of JSON could write it.
DEEP = '{"options": ' + "[" * 100_000


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert run(*QUICK, "--range_decay", "0.99", "--log_dir", folder).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    with stopped_after(1):
        assert run(*QUICK, "--range_decay", "0.99", "--log_dir", folder).exit_code == 1
    return folder


def written(path, value):
    """Whether JSON has words for it at all."""
    try:
        path.write_text(json.dumps(value))
    except RecursionError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "kind"),
    [("config.json", CONFIG), ("result.json", result_format(CELLS, ["train_acc", "test_acc"]))],
)
def test_mutated_files_are_taken_or_named(name, kind, finished, tmp_path):
    path = tmp_path / name
    valid = json.loads((finished / "x" / name).read_bytes())
    assert read_checked(finished / "x" / name, kind) == valid
    refused = []
    for _, mutated in mutations(valid, tensors=False):
        if written(path, mutated):
            try:
                read_checked(path, kind)
            except RunError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert [one for one in refused if not one.startswith(f"{path} ") or "\n" in one] == []


def checkpoints(folder):
    peers = Collectives(Ledger(), Purpose.BOOKKEEPING, num_workers=2)
    return Checkpoints(folder / "checkpoint", 1, [0, 1], peers, True)


def sign(path, manifest):
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return written(path, {"sha256": digest, "manifest": manifest})


def test_mutated_manifests_are_taken_or_named(interrupted, tmp_path):
    """Behind the right digest, too; the parts behind them as well."""
    shutil.copytree(interrupted / "x", tmp_path / "x")
    path = tmp_path / "x" / "checkpoint" / "manifest.json"
    signed = json.loads(path.read_bytes())
    refused = []
    for value, write in ((signed, written), (signed["manifest"], sign)):
        for _, mutated in mutations(value, tensors=False):
            try:
                if not write(path, mutated):
                    continue
            except RecursionError:
                continue
            found = checkpoints(tmp_path / "x")
            try:
                if found.find() is not None:
                    found.load(ANYTHING, lambda shared: ANYTHING)
            except (RunError, UsageError) as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert [one for one in refused if str(tmp_path) not in one or "\n" in one] == []


def resumed(folder):
    result = run(*QUICK, "--range_decay", "0.99", "--log_dir", folder, "--resume")
    assert result.exit_code in (1, 2), result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"options":{},"lasting":["a"],"run":{},"versions":{}}', "lasting is a list of 1"),
        (DEEP, "line 1 is nested more than 32 deep"),
        ('{"options":{},"run":{},"versions":{}}', "it has no lasting"),
    ],
)
def test_a_config_that_is_wrong(content, expected, finished, tmp_path):
    shutil.copytree(finished / "x", tmp_path / "x")
    (tmp_path / "x" / "config.json").write_text(content)
    message = resumed(tmp_path)
    assert str(tmp_path / "x" / "config.json") in message
    assert expected in message


def test_a_result_that_is_wrong(finished, tmp_path):
    shutil.copytree(finished / "x", tmp_path / "x")
    (tmp_path / "x" / "result.json").write_text('{"cells":[{"lr":1}]}')
    assert f"{tmp_path / 'x' / 'result.json'} is damaged, or none of ours: it has no process_0" in (
        resumed(tmp_path)
    )


def test_a_cell_that_there_is_not(interrupted, tmp_path):
    shutil.copytree(interrupted / "x", tmp_path / "x")
    path = tmp_path / "x" / "checkpoint" / "manifest.json"
    manifest = json.loads(path.read_bytes())["manifest"]
    manifest["facts"]["cell"] = 99
    sign(path, manifest)
    message = resumed(tmp_path)
    assert f"{path} is none of this run: facts.cell is 99; it must be an integer from 0 to 0" in (
        message
    )


def checkpoint_parts(folder):
    (path,) = (folder / "x" / "checkpoint").rglob("shared.pt")
    return path, read_tensors(path, path.read_bytes())


def rewritten(folder, name, change):
    """A checkpoint with a changed part, and its right digest in the manifest."""
    (part,) = (folder / "x" / "checkpoint").rglob(name)
    state = read_tensors(part, part.read_bytes())
    change(state)
    torch.save(state, part)
    path = folder / "x" / "checkpoint" / "manifest.json"
    manifest = json.loads(path.read_bytes())["manifest"]
    content = part.read_bytes()
    manifest["parts"][name] = {
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    sign(path, manifest)
    return part


def formats(shared):
    """Of the parts of the interrupted run."""
    context = cli.train.make_context("train", [*QUICK, "--range_decay", "0.99"])
    options = read_options(dict(context.params), RankInfo())
    num_rounds = len(shared["recorder"]["seconds"])
    duration = Duration(rounds_per_epoch=num_rounds + 2, num_rounds=num_rounds + 2)
    return (
        SharedFormat(options, shared["weights"], duration, num_finished=0),
        worker_format(duration, "off", shared),
    )


def test_mutated_parts_are_refused_or_taken(interrupted):
    """Nothing but our error, which names the field."""
    _, shared = checkpoint_parts(interrupted)
    kind, _ = formats(shared)
    kind.check("", shared)
    refused = []
    for _, mutated in mutations(shared):
        try:
            kind.check("", mutated)
        except CompsgdError as error:
            refused.append(str(error))
    assert len(refused) > 300
    assert [one for one in refused if "\n" in one or len(one) > 300] == []


def finished_weights(state):
    state["weights"] = {}


def another_round(state):
    state["position"]["round_"] += 1


def no_shape(state):
    state["weights"] = {name: one[None] for name, one in state["weights"].items()}


def another_step(state):
    for own in state["optimizer"]["state"].values():
        own["step"] = own["step"] + 1


def no_range(state):
    state["optimizer"] = {}


def another_parameter(state):
    state["optimizer"] = {index + 40: own for index, own in state["optimizer"].items()}


def short_scores(state):
    state["scores"] = state["scores"][:1]


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("shared.pt", lambda state: state.pop("seconds"), "it has no seconds"),
        ("shared.pt", lambda state: state.update(position=5), "position is 5"),
        ("shared.pt", lambda state: state.update(wire={}), "wire has no gradient"),
        ("shared.pt", finished_weights, "weights has no "),
        ("shared.pt", no_shape, "it must be a dense float32 tensor of shape"),
        ("shared.pt", another_round, "recorder.seconds is a list of 1; it must be a list of 2"),
        ("shared.pt", another_step, "optimizer is of round 2, and its histories are of 1"),
        ("worker1.pt", no_range, "there is no max of worker 1"),
        ("worker1.pt", another_parameter, "optimizer is none of this run: "),
        ("worker1.pt", short_scores, "scores is a float64 tensor of shape (1, 3)"),
        ("worker1.pt", lambda state: state.clear(), "it has no optimizer"),
    ],
)
def test_parts_of_the_right_digest_that_are_wrong(name, change, expected, interrupted, tmp_path):
    shutil.copytree(interrupted / "x", tmp_path / "x")
    before = (tmp_path / "x" / "config.json").read_bytes()
    part = rewritten(tmp_path, name, change)
    message = resumed(tmp_path)
    assert expected in message
    if "optimizer" not in expected and "max" not in expected:
        assert f"{part} is none of this run: " in message
        assert (tmp_path / "x" / "config.json").read_bytes() == before


def test_a_part_of_another_size_is_not_read(interrupted, tmp_path):
    """It would fill the memory."""
    shutil.copytree(interrupted / "x", tmp_path / "x")
    (part,) = (tmp_path / "x" / "checkpoint").rglob("shared.pt")
    with part.open("r+b") as file:
        file.truncate(1 << 40)
    assert "shared.pt is damaged: 1,099,511,627,776 bytes instead of" in resumed(tmp_path)

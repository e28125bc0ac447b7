"""Measured machines, written and read."""

import json

import pytest

from compsgd.workers.failures import UsageError
from compsgd.workers.prediction.machine import USUAL, read_machine


def test_what_is_saved_is_read(tmp_path):
    USUAL.save(tmp_path / "machine.json")
    assert read_machine(tmp_path / "machine.json") == USUAL


def test_slowed_slows_everything():
    slow = USUAL.slowed(2.0)
    assert slow.votes[3].encode_s == 2 * USUAL.votes[3].encode_s
    for name, value in vars(USUAL).items():
        if name != "votes":
            assert getattr(slow, name) == 2 * value


def saved():
    speeds = {name: value for name, value in vars(USUAL).items() if name != "votes"}
    return {"votes": {"3": vars(USUAL.votes[3])}, **speeds}


@pytest.mark.parametrize(
    "change",
    [
        {"votes": {"three": {}}}, {"votes": {"3": {}}}, {"votes": []}, {"copy_s": "fast"},
        {"copy_s": -1.0}, {"copy_s": True}, {"speed": 1.0},
    ],
)  # fmt: skip
def test_what_is_none_is_told(tmp_path, change):
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(saved()))
    read_machine(path)
    path.write_text(json.dumps(saved() | change))
    with pytest.raises(UsageError, match="is not what `compsgd predict --calibrate --machine`"):
        read_machine(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"votes": {}, "votes": {}}', "{1"])
def test_no_such_file_is_told(tmp_path, content):
    path = tmp_path / "machine.json"
    with pytest.raises(UsageError, match="No such file"):
        read_machine(path)
    path.write_text(content)
    with pytest.raises(UsageError, match=r"machine\.json"):
        read_machine(path)

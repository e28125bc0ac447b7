"""Damaged, foreign and hostile files are a clear error that names them; nothing is half loaded."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess

import pytest
import torch
from command_line import run
from disks import mounted_disk
from stopping import outcome, stopped_after

from compsgd.workers.failures import RunError
from compsgd.workers.train.checkpoint import read_tensors

QUICK = ["--model", "mlp", "--epochs", "2", "--batch_size", "256", "--num_workers", "2",
         "--threads", "1", "--compile", "off", "--exp_name", "x"]  # fmt: skip


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    with stopped_after(4):
        assert run(*QUICK, "--log_dir", folder).exit_code == 1
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace(path):
    path.write_bytes(b"x" * path.stat().st_size)


def delete(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, replace, delete])
@pytest.mark.parametrize("name", ["shared.pt", "worker1.pt", "manifest.json"])
def test_damage_is_named(damage, name, interrupted, tmp_path):
    if (damage, name) == (delete, "manifest.json"):
        pytest.skip("without a manifest there is no checkpoint: the run begins anew")
    shutil.copytree(interrupted / "x", tmp_path / "x")
    (path,) = (tmp_path / "x" / "checkpoint").rglob(name)
    damage(path)
    result = run(*QUICK, "--log_dir", tmp_path, "--resume")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {path} ")
    assert result.stderr.count("\n") == 1
    reason = "cannot be read: No such file" if damage is delete else "is damaged"
    assert reason in result.stderr
    assert (tmp_path / "x" / "config.json").read_bytes() == (
        interrupted / "x" / "config.json"
    ).read_bytes()


def signed(folder, change):
    """A manifest with a change and the digest that belongs to it."""
    path = folder / "x" / "checkpoint" / "manifest.json"
    manifest = json.loads(path.read_bytes())["manifest"]
    change(manifest)
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "manifest": manifest}))
    return path


def test_other_formats_are_refused(interrupted, tmp_path):
    shutil.copytree(interrupted / "x", tmp_path / "x")
    path = signed(tmp_path, lambda manifest: manifest.update(format=1))
    result = run(*QUICK, "--log_dir", tmp_path, "--resume")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f"{path} is of format 1; this version reads 2" in result.stderr


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_nothing_in_a_part_is_run(interrupted, tmp_path, monkeypatch):
    """Not even behind the right digest."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(interrupted / "x", tmp_path / "x")
    (path,) = (tmp_path / "x" / "checkpoint").rglob("shared.pt")
    torch.save({"weights": RunsCode()}, path)
    content = path.read_bytes()
    part = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    signed(tmp_path, lambda manifest: manifest["parts"].update({"shared.pt": part}))
    result = run(*QUICK, "--log_dir", tmp_path, "--resume")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f"{path} is no file of tensors" in result.stderr
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({"a": 1}), b"PK\x03\x04"])
def test_no_file_of_tensors(content, tmp_path):
    with pytest.raises(RunError, match=r"x\.pt is no file of tensors"):
        read_tensors(tmp_path / "x.pt", content)


def test_a_list_is_no_state(tmp_path):
    torch.save([1], tmp_path / "x.pt")
    with pytest.raises(RunError, match=r"x\.pt is no .* it holds list instead of a dict"):
        read_tensors(tmp_path / "x.pt", (tmp_path / "x.pt").read_bytes())


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for one checkpoint and not for two."""
    with mounted_disk(tmp_path, "8m") as disk:
        yield disk


def test_a_full_disk_ends_in_one_line_and_leaves_what_was_good(small_disk, tmp_path):
    options = ["--model", "vanilla_cnn", "--epochs", "2", "--num_workers", "2", "--threads", "1",
               "--compile", "off", "--exp_name", "x"]  # fmt: skip
    failed = run(*options, "--log_dir", small_disk)
    assert failed.exit_code == 1, failed.output
    assert "No space left on device" in failed.stderr
    assert failed.stderr.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert not list((small_disk / "x").rglob(".*"))
    assert (small_disk / "x" / "checkpoint" / "000001").is_dir()
    assert run(*options, "--log_dir", small_disk, "--resume").exit_code == 0
    assert run(*options, "--log_dir", tmp_path).exit_code == 0
    assert outcome(small_disk / "x") == outcome(tmp_path / "x")

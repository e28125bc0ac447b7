"""Two runs of one experiment lock each other out; a run that has ended locks nobody out."""

import json
import sys

import pytest
from command_line import run
from processes import started_command

from compsgd.workers.failures import UsageError
from compsgd.workers.results.one_writer import LOCK, OneWriter

SHORT = ["--model", "mlp", "--epochs", "1", "--batch_size", "256", "--num_workers", "2",
         "--threads", "1", "--compile", "off"]  # fmt: skip

HOLDER = """
import sys, time
from pathlib import Path
from compsgd.workers.results.one_writer import OneWriter
writer = OneWriter(Path(sys.argv[1]))
writer.take()
print("taken", flush=True)
time.sleep(600)
"""


def train(folder, *args):
    return run(*SHORT, "--log_dir", folder.parent, "--exp_name", folder.name, *args)


def files_of(folder):
    """All but the lock itself."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs") / "one"
    assert train(folder).exit_code == 0
    return folder


@pytest.mark.parametrize("args", [["--overwrite"], ["--resume"], ["--resume", "--tensorboard"]])
def test_a_folder_that_another_process_writes_to(args, finished):
    before = files_of(finished)
    with started_command(sys.executable, "-c", HOLDER, str(finished)) as holder:
        assert holder.stdout.readline() == "taken\n"
        result = train(finished, *args)
        assert result.exit_code == 2
        assert result.stderr == (
            f"Error: another run is writing to {finished} now; wait for its end, or choose another "
            "--exp_name\n"
        )
        assert files_of(finished) == before
        holder.kill()
        holder.wait()
        # A process that was killed holds nothing.
        assert train(finished, "--resume").exit_code == 0


def test_it_is_free_again_behind_a_run(finished):
    assert train(finished, "--resume").exit_code == 0
    assert train(finished, "--overwrite").exit_code == 0
    writer = OneWriter(finished)
    writer.take()
    writer.take()
    with pytest.raises(UsageError, match="another run is writing"):
        OneWriter(finished).take()
    writer.release()
    writer.release()
    OneWriter(finished).take()


def test_who_makes_the_folder_first(tmp_path, monkeypatch):
    """Both have found nothing there; the second must not delete what the first has made."""
    from compsgd.workers.results.experiment import Experiment

    folder = tmp_path / "one"
    original = Experiment.create

    def create(experiment, environment):
        with monkeypatch.context() as patch:
            patch.setattr(Experiment, "create", original)
            assert train(folder).exit_code == 0
        original(experiment, environment)

    monkeypatch.setattr(Experiment, "create", create)
    result = train(folder, "--seed", "1")
    assert result.exit_code == 2
    assert result.stderr == f"Error: another run has made {folder} in the meantime\n"
    assert json.loads((folder / "config.json").read_bytes())["options"]["seed"] == 0
    assert (folder / "result.json").exists()


@pytest.fixture
def no_locks(monkeypatch):
    def acquire(self, **arguments):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)


def test_a_file_system_without_locks_is_told_of(no_locks, tmp_path, caplog):
    writer = OneWriter(tmp_path)
    for _ in range(2):
        writer.take()
    (record,) = caplog.records
    assert "cannot be locked (no flock here): see to it that no other run" in record.getMessage()


@pytest.mark.parametrize("option", ["--overwrite", "--resume"])
def test_a_file_system_without_locks_keeps_nobody_out(option, no_locks, finished):
    result = train(finished, option)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("cannot be locked") == 1

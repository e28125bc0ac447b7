"""Histories: what is read back, what is refused, and files that are never half-written."""

import os
import pickle

import numpy as np
import pytest

from compsgd import CompsgdError
from compsgd.files import atomic_write
from compsgd.history import read_histories, write_histories

HISTORIES = {
    (0.003, 1.0): {"batch_loss_hist": [2.5, 1.25], "bin_usage": np.arange(18).reshape(2, 9)},
    (0.001, 0.5): {"batch_loss_hist": [], "bin_usage": np.empty(0), "x": np.float64(3.0)},
}


def test_round_trip(tmp_path):
    path = tmp_path / "histories.pkl"
    write_histories(path, HISTORIES)
    read = read_histories(path)
    assert list(read) == list(HISTORIES)
    for cell, history in HISTORIES.items():
        for metric, values in history.items():
            np.testing.assert_array_equal(read[cell][metric], values)


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol(tmp_path, protocol):
    (tmp_path / "h.pkl").write_bytes(pickle.dumps(HISTORIES, protocol))
    assert list(read_histories(tmp_path / "h.pkl")) == list(HISTORIES)


def test_published_histories_read(published_histories):
    assert len(published_histories) == 4
    for path in published_histories:
        for (lr, decay), history in read_histories(path).items():
            assert lr > 0
            assert 0 < decay <= 1
            assert len(history["avg_epoch_acc_hist"]) >= 1


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h.pkl").write_bytes(pickle.dumps({(0.1, 1.0): {"a": RunsCode()}}))
    with pytest.raises(CompsgdError, match=r"h\.pkl is no histories file: .*system"):
        read_histories("h.pkl")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1, 2]), pickle.dumps({1: {}})])
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "h.pkl").write_bytes(content)
    with pytest.raises(CompsgdError, match="no histories file"):
        read_histories(tmp_path / "h.pkl")


def test_a_truncated_file_is_refused(tmp_path):
    write_histories(tmp_path / "h.pkl", HISTORIES)
    content = (tmp_path / "h.pkl").read_bytes()
    for size in range(0, len(content), 7):
        (tmp_path / "h.pkl").write_bytes(content[:size])
        with pytest.raises(CompsgdError, match="no histories file"):
            read_histories(tmp_path / "h.pkl")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(CompsgdError, match="No such file"):
        read_histories(tmp_path / "h.pkl")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail_halfway():
        with atomic_write(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("position", [0.1, 0.3, 0.5, 0.7, 0.95, 0.999])
def test_any_flipped_bit_is_noticed(position, tmp_path):
    path = tmp_path / "h.pkl"
    write_histories(path, HISTORIES)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CompsgdError, match=r"h\.pkl is no histories file"):
        read_histories(path)


@pytest.mark.parametrize("missing_bytes", [1, 10, 70, 75, 100])
def test_a_file_without_its_end_is_refused(missing_bytes, tmp_path):
    path = tmp_path / "h.pkl"
    write_histories(path, HISTORIES)
    path.write_bytes(path.read_bytes()[:-missing_bytes])
    with pytest.raises(CompsgdError, match=r"h\.pkl is no histories file"):
        read_histories(path)


def test_anybody_reads_it_as_a_pickle(tmp_path):
    write_histories(tmp_path / "h.pkl", HISTORIES)
    with (tmp_path / "h.pkl").open("rb") as file:
        assert list(pickle.load(file)) == list(HISTORIES)


@pytest.mark.parametrize(
    "values", ["text", {"a": 1}, [[1.0], [2.0]], ["1.0"], [None], [10**400], None, b"12"]
)
def test_metrics_are_numbers(values, tmp_path):
    (tmp_path / "h.pkl").write_bytes(pickle.dumps({(0.1, 1.0): {"a_hist": values}}))
    with pytest.raises(CompsgdError, match="a_hist holds something else than numbers"):
        read_histories(tmp_path / "h.pkl")


def test_names_of_metrics_are_no_commands_for_a_terminal(tmp_path):
    (tmp_path / "h.pkl").write_bytes(pickle.dumps({(0.1, 1.0): {"a\x1b[2J": [1.0]}}))
    with pytest.raises(CompsgdError, match="no histories file"):
        read_histories(tmp_path / "h.pkl")


class ForgedArray:
    """An array of objects over bytes of its own choice: reading an element would follow them."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), b"A" * 8)


class ForgedObjects:
    def __reduce__(self):
        return np.dtype, ("O", False, True)


@pytest.mark.parametrize("forged", [ForgedArray(), ForgedObjects()])
def test_forged_arrays_are_refused(forged, tmp_path):
    (tmp_path / "h.pkl").write_bytes(pickle.dumps({(0.1, 1.0): {"a": forged}}))
    with pytest.raises(CompsgdError, match=r"h\.pkl is no histories file"):
        read_histories(tmp_path / "h.pkl")

"""Python's own sources as a text."""

import sysconfig
from pathlib import Path

import pytest

from compsgd.workers.data import stdlib
from compsgd.workers.data.datasets import load_dataset
from compsgd.workers.failures import UsageError


def load(context=64):
    return load_dataset("stdlib", Path("no such folder"), download=False, context=context)


def test_it_is_there_and_always_the_same():
    one, two = load(), load()
    assert one.digest == two.digest
    assert len(one.train) == pytest.approx(9 * len(one.test), rel=0.01)
    assert len(one.train) > 10_000
    assert 90 <= len(one.format.vocabulary) <= 110
    assert {"\n", "a", "\N{REPLACEMENT CHARACTER}"} <= set(one.format.vocabulary)


def test_only_the_library_proper_is_read():
    folder = Path(sysconfig.get_path("stdlib"))
    files = [path.relative_to(folder) for path in stdlib.source_files(folder)]
    assert {"ast.py", "json/decoder.py"} <= {path.as_posix() for path in files}
    assert not {"test", "idlelib", "lib2to3", "site-packages"} & {p.parts[0] for p in files}
    assert files == sorted(files)


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.py").write_bytes(content)


def test_other_characters_become_one_and_other_encodings_are_skipped(tmp_path, monkeypatch):
    write(tmp_path, ast=b"x = 1\n" * 10, bdb=b"\xe9" * 99, cmd="\u00e9\u00e8".encode() * 10)
    write(tmp_path, sitecustomize=b"secret = 1\n")
    monkeypatch.setattr(stdlib.sysconfig, "get_path", {"stdlib": str(tmp_path)}.get)
    dataset = load(context=2)
    assert dataset.format.vocabulary == "\n 1=x\ufffd"
    assert len(dataset.train.tokens) + len(dataset.test.tokens) == 60 + 20
    monkeypatch.setattr(stdlib, "_MOST_CHARACTERS", 65)
    dataset = load(context=2)
    assert len(dataset.train.tokens) + len(dataset.test.tokens) == 65


def test_a_python_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib.sysconfig, "get_path", {"stdlib": str(tmp_path)}.get)
    with pytest.raises(UsageError, match=f"{tmp_path} has no source files"):
        load()

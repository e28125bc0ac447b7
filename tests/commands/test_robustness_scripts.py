"""The scripts that attack, on few files: that they find nothing, and would find something."""

import importlib.util
import multiprocessing
import os
import pickle
import random
import sys

import pytest
from processes import ROOT, run_command

SCRIPT = ROOT / "scripts" / "robustness" / "fuzz_files.py"


@pytest.fixture(scope="module")
def fuzz_files():
    spec = importlib.util.spec_from_file_location("fuzz_files", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_files"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz_files"]


def test_mutated_files_are_read_or_refused():
    finished = run_command(sys.executable, str(SCRIPT), "--count", "400", timeout_s=240)
    lines = finished.stdout.replace(",", "").splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    table = {row[0]: list(map(int, row[1:])) for row in rows}
    assert sum(table["all"]) == 400
    for name in ("histories", "histories digest kept", "part of a checkpoint", "text",
                 "the pickle in a part", "idx", "idx packed"):  # fmt: skip
        read, refused, *bad = table[name]
        assert read + refused == 40, finished.stdout
        assert not any(bad), finished.stdout
    assert table["all"][2:5] == [0, 0, 0], finished.stdout
    for name in ("histories", "part of a checkpoint", "the pickle in a part", "text"):
        assert table[name][0], finished.stdout


def test_files_are_a_function_of_seed_and_number(fuzz_files, tmp_path):
    known = fuzz_files.formats(tmp_path)
    for number in range(len(known) * 3):
        assert fuzz_files.file_of(number, 1, known) == fuzz_files.file_of(number, 1, known)
    contents = {fuzz_files.file_of(0, seed, known)[1] for seed in range(30)}
    assert len(contents) > 20


@pytest.mark.parametrize("mutate", range(8))
def test_every_mutation_takes_every_content(mutate, fuzz_files):
    assert len(fuzz_files.MUTATIONS) == 8
    for content in (b"", b"a", pickle.dumps({"a": 1})):
        for seed in range(20):
            draw = random.Random(seed)
            assert isinstance(fuzz_files.MUTATIONS[mutate](draw, content, (b"", b"bc")), bytes)


@pytest.mark.parametrize("index", range(3))
def test_it_would_notice_code_that_runs(index, fuzz_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = fuzz_files.Format("pickles", (), lambda folder, content: pickle.loads(content))
    content = pickle.dumps(fuzz_files.HOSTILE[index])
    found = fuzz_files.outcome_of(kind, tmp_path, content, 0, str(tmp_path / "findings"))
    assert found == "read"
    assert (tmp_path / fuzz_files.CANARY).exists()


@pytest.mark.parametrize(("target", "ends"), [(os.abort, ["crashed"]), (int, [])])
def test_it_would_notice_a_crash(target, ends, fuzz_files):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=target)
    process.start()
    assert list(fuzz_files.ends_of(process, context.RawValue("q", 0))) == ends

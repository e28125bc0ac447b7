"""Surroundings that do not work: results are never lost, and what is lost instead is said in a
line."""

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import run
from disks import mounted_disk

from compsgd.codec import numba_cache
from compsgd.history import write_histories
from compsgd.workers.failures import UsageError
from compsgd.workers.train.compile_cache import usable_cache

COMPSGD = shlex.quote(str(Path(sys.executable).parent / "compsgd"))
TRAIN = (
    f"{COMPSGD} train --model mlp --epochs 1 --batch_size 256 --num_workers 2 --threads 1 "
    "--exp_name x --log_dir logs "
)
NO_FOLDER = "/proc/no_such_folder"


def shell(command, folder, **variables):
    """As a user types it."""
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=os.environ | variables, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def has_results(folder):
    found = {path.name for path in (folder / "logs" / "x").iterdir()}
    return {"result.json", "histories.pkl", "metrics.csv", "batch_loss.png"} <= found


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (">&-", 0),
        (">/dev/full", 1),
        ("<&- >&- 2>&-", 0),
        (">/dev/full 2>/dev/full", 0),
        ("| head -n 1", 1),
    ],
)
def test_a_run_writes_its_results_whatever_standard_output_is(output, lines, tmp_path):
    done = shell(f"{{ {TRAIN} --compile off; echo code $? >code; }} {output}", tmp_path)
    assert (tmp_path / "code").read_text() == "code 0\n", done.stderr
    assert has_results(tmp_path)
    told = done.stderr.splitlines()
    assert len(told) <= max(lines, 1)
    assert all("standard output cannot be written" in line for line in told)
    if lines:
        assert len(told) == 1


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("bytes --num_workers 2", ">&-"),
        ("bytes --num_workers 2", ">/dev/full"),
        ("bytes --num_workers 2", "| :"),
        ("train --help", ">/dev/full"),
    ],
)
def test_what_is_printed_and_nothing_else_is_an_error(command, output, tmp_path):
    done = shell(f"{{ {COMPSGD} {command}; echo code $? >code; }} {output}", tmp_path)
    assert (tmp_path / "code").read_text() == "code 1\n"
    assert done.stderr.startswith("Error: standard output cannot be written: ")
    assert done.stderr.count("\n") == 1


def test_an_inherited_plotting_backend(tmp_path):
    backend = "module://no_such_package.backend_inline"
    done = shell(f"{TRAIN} --compile off", tmp_path, MPLBACKEND=backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert has_results(tmp_path)


def test_a_plotting_backend_that_works_is_kept(tmp_path):
    code = "import os, compsgd.plots, matplotlib as m; print(m.rcParams['backend'], *os.environ)"
    kept = shell(shlex.join([sys.executable, "-c", code]), tmp_path, MPLBACKEND="svg")
    assert kept.stdout.startswith("svg ")
    assert "MPLBACKEND" in kept.stdout


@pytest.mark.figures
def test_figures_that_cannot_be_drawn_cost_no_results(tmp_path, monkeypatch, capfd):
    def fail(*args, **settings):
        raise OSError("no fonts\nat all")

    monkeypatch.setattr("compsgd.plots.draw_experiment", fail)
    done = run(*shlex.split(TRAIN)[2:], "--compile", "off", cwd=tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "logs" / "x" / "result.json").exists()
    told = done.stderr + capfd.readouterr().err
    assert "the figures in logs/x cannot be drawn: no fonts\n" in told


@pytest.mark.parametrize("compile_", ["auto", "on"])
def test_caches_that_cannot_be_written(compile_, tmp_path):
    done = shell(
        f"{TRAIN} --compile {compile_}", tmp_path, TORCHINDUCTOR_CACHE_DIR=NO_FOLDER,
        NUMBA_CACHE_DIR=NO_FOLDER,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert has_results(tmp_path)
    told = done.stderr.splitlines()
    assert sum("TORCHINDUCTOR_CACHE_DIR" in line for line in told) == 1
    assert len(told) <= 2


@pytest.fixture
def full_disk(tmp_path):
    """A file system with nothing left."""
    with mounted_disk(tmp_path, "16k") as disk:
        (disk / "rest").write_bytes(bytes(12 << 10))
        yield disk


@pytest.mark.parametrize("options", ["--compile native", "--compile on --rand_zero false"])
def test_caches_on_a_full_disk(options, full_disk, tmp_path):
    """Of Numba, and of torch.compile, which may be asked for and then says why it cannot."""
    done = shell(
        f"{TRAIN} {options}", tmp_path, NUMBA_CACHE_DIR=str(full_disk),
        TORCHINDUCTOR_CACHE_DIR=str(full_disk),
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    if "native" in options:
        assert done.returncode == 0, done.stderr
        assert has_results(tmp_path)
    else:
        # torch may have said something of its own before.
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1].startswith("Error: torch.compile fails here (")


def test_no_temporary_folder_is_a_line_with_the_remedy(monkeypatch):
    def none():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(UsageError, match="set TMPDIR to a folder that can"), usable_cache():
        pass


def test_a_cache_that_works_is_left_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with usable_cache():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", NO_FOLDER)
    with usable_cache():
        stand_in = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        assert stand_in.is_dir()
    assert not stand_in.exists()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == NO_FOLDER
    assert len(caplog.records) == 1


def test_a_cache_of_numba_that_fails_is_told_once(monkeypatch, caplog):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba_cache, "_is_told", False)
    compiled = SimpleNamespace(_cache=SimpleNamespace(save_overload=fail, load_overload=fail))
    numba_cache.forgive_cache(compiled)
    with caplog.at_level(logging.WARNING, "compsgd"):
        assert compiled._cache.load_overload("signature", "context") is None
        assert compiled._cache.save_overload("signature", "code") is None
    assert [record.message for record in caplog.records] == [
        "Numba's cache on the disk does not work here ([Errno 28] No space left on device): going "
        "on without it, seconds later and with the same results"
    ]
    numba_cache.forgive_cache(SimpleNamespace())


def test_the_home_folder_in_an_option(tmp_path):
    (tmp_path / "home").mkdir()
    command = TRAIN.replace("--log_dir logs", "--log_dir=~/runs") + " --compile off"
    done = shell(command, tmp_path, HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "runs" / "x" / "result.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"home"}
    listed = shell(f"{COMPSGD} plot list x --log_dir=~/runs", tmp_path, HOME=str(tmp_path / "home"))
    assert "test_acc_hist" in listed.stdout


NO_TEXT = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("variables", [{"LC_ALL": "C"}, NO_TEXT])
def test_a_name_beyond_ascii_is_drawn(variables, tmp_path):
    folder = tmp_path / "logs" / "Prüfung 試験"
    folder.mkdir(parents=True)
    write_histories(folder / "histories.pkl", {(0.1, 1.0): {"test_acc_hist": [1.0, 2.0]}})
    for ending in ("png", "svg", "pdf"):
        done = shell(
            f"{COMPSGD} plot curves 'Prüfung 試験' --metric test_acc_hist --x epochs --title Übung "
            f"--out figure.{ending}",
            tmp_path, **variables,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / f"figure.{ending}").stat().st_size > 1000


def test_a_formula_that_is_none_is_a_line(tmp_path):
    write_histories(tmp_path / "h.pkl", {(0.1, 1.0): {"test_acc_hist": [1.0, 2.0]}})
    done = shell(
        f"{COMPSGD} plot curves h.pkl --metric test_acc_hist --x epochs --title '$\\frac$' "
        "--out figure.png",
        tmp_path,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("Error: figure.png cannot be drawn: ")
    assert not (tmp_path / "figure.png").exists()

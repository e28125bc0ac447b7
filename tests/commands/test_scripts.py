"""The scripts, on small settings, as a user runs them."""

import os
import re
import sys

import pytest
from command_line import run_script
from processes import ROOT, run_command

SCRIPTS = ROOT / "scripts"


def rows_of(text):
    """The cells of the rows of a Markdown table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return (line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[2:])


COMMANDS = [path for path in SCRIPTS.rglob("*.py") if "click" in path.read_text()]
RUN = [path for path in COMMANDS if '__name__ == "__main__"' in path.read_text()]


@pytest.mark.parametrize("path", RUN, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_each_has_a_help(path, capsys):
    """And so what it imports is there."""
    assert run_script(path, "--help") == 0
    assert "Usage: " in capsys.readouterr().out


WRITING = [path for path in RUN if '"--out"' in path.read_text() or path.name == "run_all.py"]


@pytest.mark.parametrize("path", WRITING, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_a_place_that_cannot_be_written_is_named_before_anything_is_measured(
    path, tmp_path, capsys
):
    (tmp_path / "file").touch()
    where = tmp_path / "file" / "x.png" / "y.png"
    assert run_script(path, "--out", str(where)) == 2
    assert str(where.parent) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("reproduce/run_all.py", "--page"),
        ("study/run.py", "--log_dir"),
        ("robustness/fuzz_files.py", "--keep"),
    ],
)
def test_so_is_any_other_place(script, option, tmp_path, capsys):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "x"
    own = [] if "fuzz" in script else ["--out", str(tmp_path / "out")]
    assert run_script(SCRIPTS / script, option, str(place), *own) == 2
    assert str(place.parent) in capsys.readouterr().err


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_several_values_may_stand_behind_one_option(path):
    """As in all commands: `--num_hosts 2 4`."""
    text = path.read_text()
    assert "multiple=True" not in text or "cls=SpreadingCommand" in text


def test_random_bytes_through_unpack():
    script = str(SCRIPTS / "robustness/fuzz_unpack.py")
    finished = run_command(sys.executable, script, "--strings", "3000")
    assert (finished.exit_code, finished.stderr) == (0, "")
    seen = dict(rows_of(finished.stdout))
    assert seen["crashes"] == seen["accepted but invalid"] == "0"
    assert all(int(seen[name].replace(",", "")) > 500 for name in ("refused", "valid"))


@pytest.mark.heavy
def test_a_short_soak():
    script = str(SCRIPTS / "robustness/soak.py")
    finished = run_command(sys.executable, script, "--runs", "2", "--seed", "3", timeout_s=240)
    assert finished.exit_code == 0, finished.stdout
    seen = finished.stdout[finished.stdout.index("| seen |") :]
    assert dict(rows_of(seen))["bit-identical"] == "2"


@pytest.mark.heavy
def test_a_table_of_one_adversary():
    finished = run_command(
        sys.executable, str(SCRIPTS / "robustness/adversaries.py"), "--dataset", "digits",
        "--epochs", "1", "--most", "1", "--attack", "flip", timeout_s=240,
    )  # fmt: skip
    assert finished.exit_code == 0, finished.stderr
    rows = list(rows_of(finished.stdout))
    assert [row[0] for row in rows] == ["flip"] * 3
    assert all(0 <= float(value) <= 100 for row in rows for value in row[-2:])


@pytest.mark.heavy
def test_whole_steps_through_each_hook():
    finished = run_command(
        sys.executable, "-W", "ignore", str(SCRIPTS / "bench/step.py"), "--num_processes", "2",
        "--model", "gpt", "--repeats", "1",
    )  # fmt: skip
    assert finished.exit_code == 0, finished.stderr
    rows = {row[0]: row[1:] for row in rows_of(finished.stdout)}
    assert list(rows) == [
        "no communication", "float32", "float32, one bucket", "bf16", "fp16",
        "PowerSGD 1, one bucket", "PowerSGD 2, one bucket",
        "vote, 1 bit", "vote, 3 bits", "vote, 4 bits",
        "vote, 1 bit, one bucket", "vote, 3 bits, one bucket", "vote, 4 bits, one bucket",
    ]  # fmt: skip
    assert all(float(row[0]) > 0 for row in rows.values())


@pytest.mark.heavy
def test_codecs_and_exchanges_of_others():
    finished = run_command(
        sys.executable, "-W", "ignore", str(SCRIPTS / "bench/peers.py"), "--numel", "20000",
        "--num_processes", "2", "--repeats", "1",
    )  # fmt: skip
    assert finished.exit_code == 0, finished.stderr
    codecs, exchanges = finished.stdout.split("2 processes on loopback")
    assert all(f"compsgd vote, {bits}" in codecs for bits in ("1 bit", "3 bits", "4 bits"))
    rows = re.findall(r"(?m)^(.+?)  +-?[\d.]+  +-?[\d.]+x$", exchanges)
    assert rows == [
        "float32 all_reduce", "DDP, float32", "DDP, fp16",
        "DDP, PowerSGD 1, one bucket", "DDP, PowerSGD 2, one bucket",
        "compsgd vote, 1 bit", "compsgd vote, 3 bits", "compsgd vote, 4 bits",
    ]  # fmt: skip


@pytest.mark.heavy
def test_accuracy_through_the_hook():
    finished = run_command(
        sys.executable, "-W", "ignore", str(SCRIPTS / "bench/hook_accuracy.py"),
        "--dataset", "digits", "--model", "mlp", "--num_processes", "2", "--epochs", "2",
        "--batch_size", "16",
    )  # fmt: skip
    assert finished.exit_code == 0, finished.stderr
    rows = finished.stdout.partition("\n---")[2].splitlines()[1:]
    assert len(rows) == 8
    assert all(float(row.split()[-1]) > 70 for row in rows)


@pytest.mark.heavy
def test_pictures_of_the_readme(tmp_path):
    finished = run_command(
        sys.executable, str(SCRIPTS / "readme_pictures.py"), "--out", str(tmp_path / "new"),
        "--epochs", "1", "--size", "3000", "--compile", "off", timeout_s=280,
    )  # fmt: skip
    assert finished.exit_code == 0, finished.stderr
    drawn = {path.name: path for path in (tmp_path / "new").iterdir()}
    assert set(finished.stdout.splitlines()) == set(map(str, drawn.values()))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn.values())
    # All that the README shows, and nothing else lies beside them.
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    shown = set(re.findall(r"\]\((?:\.\./)?pictures/(.*?)\)", pages))
    assert set(drawn) == shown == {path.name for path in (ROOT / "docs" / "pictures").iterdir()}


@pytest.mark.heavy
def test_intruders_against_a_run():
    """From this machine only where there is no root, and then it says so."""
    finished = run_command(
        sys.executable, str(SCRIPTS / "robustness/intruders.py"), "--connections", "40",
        "--victim", "launch.py", timeout_s=280,
    )  # fmt: skip
    assert finished.exit_code == 0, finished.stdout
    rows = list(rows_of(finished.stdout))
    places = ["another machine"] * 4 if os.geteuid() == 0 else []
    assert [place in row for place, row in zip(places, rows, strict=False)] == [True] * len(places)
    assert len(rows) == len(places) + 4

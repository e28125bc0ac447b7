"""`scripts/measure_all.py`: which tables it writes, and how it goes on."""

import itertools
import re
import sys

import click
import pytest
from command_line import run_script
from processes import ROOT

from compsgd.workers.failures import RunError, UsageError

sys.path.insert(0, str(ROOT / "scripts"))

import measure_all
from measure_all import MEASUREMENTS, PAGE, ROBUSTNESS, Measurement, block

MARK = re.compile(r"<!-- measured: (\w+) -->")
# Of the headings, not of measurements.
_PLAIN_TABLES = ("| question | table |",)


@pytest.mark.parametrize("page", [PAGE, ROBUSTNESS])
def test_each_mark_of_a_page_is_a_measurement_and_the_other_way_round(page):
    marks = MARK.findall((ROOT / page).read_text())
    assert sorted(marks) == sorted(one.name for one in MEASUREMENTS if one.page == page)
    assert all(block(name).search((ROOT / page).read_text()) for name in marks)


@pytest.mark.parametrize("page", [PAGE, ROBUSTNESS])
def test_a_table_that_no_command_has_written_does_not_stand(page):
    text = (ROOT / page).read_text()
    for name in MARK.findall(text):
        text = block(name).sub("", text)
    lines = text.splitlines()
    heads = [line for line, rule in itertools.pairwise(lines) if rule.startswith(("| -", "|--"))]
    assert [head for head in heads if head not in _PLAIN_TABLES] == []
    assert not re.search(r"(?m)^-{20,}$", text)


@pytest.mark.parametrize("one", MEASUREMENTS, ids=lambda one: one.name)
def test_each_command_takes_its_words(one, tmp_path, monkeypatch):
    """It reads them, and then is not run."""
    read = []
    monkeypatch.setattr(click.Command, "invoke", lambda command, context: read.append(command))
    start, *words = one.words(tmp_path)[1:]
    path = ROOT / "compsgd" / "__main__.py" if start == "-m" else ROOT / start
    assert run_script(path, *(words[1:] if start == "-m" else words)) == 0
    assert read


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A clone with one page, and one measurement that counts how often it runs."""
    (tmp_path / "page.md").write_text(
        "before\n<!-- measured: one -->\nold\n<!-- end of one -->\nafter\n"
    )
    (tmp_path / "count.py").write_text(
        "from pathlib import Path\n"
        "path = Path('runs')\n"
        "path.write_text(path.read_text() + 'x' if path.exists() else 'x')\n"
        "print('| runs |\\n| --- |\\n| ' + path.read_text() + ' |')\n"
    )
    monkeypatch.setattr(measure_all, "ROOT", tmp_path)
    monkeypatch.setattr(
        measure_all, "MEASUREMENTS", [Measurement("one", "python count.py", 1, "page.md")]
    )
    return tmp_path


def go(house, *, again=False):
    measure_all.bring(measure_all.MEASUREMENTS, house, house / "kept", again=again)


def test_a_block_holds_command_output_day_and_machine(house):
    go(house)
    text = (house / "page.md").read_text()
    assert text.startswith("before\n<!-- measured: one -->\n\n`python count.py`\n\n| runs |")
    assert text.endswith("\n<!-- end of one -->\nafter\n")
    assert re.search(r"\*\d{4}-\d\d-\d\d, .*, \d+ cores, \d+ GiB, torch .*, version \w+\+?\*", text)
    assert "old" not in text


def test_what_has_been_measured_is_not_measured_again(house):
    go(house)
    (house / "page.md").write_text("<!-- measured: one -->\n<!-- end of one -->\n")
    go(house)
    assert (house / "runs").read_text() == "x"
    assert "| x |" in (house / "page.md").read_text()
    go(house, again=True)
    assert "| xx |" in (house / "page.md").read_text()


def test_plain_text_is_shown_as_it_was_printed():
    record = measure_all.Record("compsgd bench step", "2026-11-27", "a machine", "a  b\n----\n1  2")
    assert "```\na  b\n----\n1  2\n```" in record.text()


def test_what_fails_says_so_and_leaves_the_page(house):
    (house / "count.py").write_text("print('half of it'); raise SystemExit(3)")
    before = (house / "page.md").read_text()
    with pytest.raises(RunError, match=r"python count.py has failed with exit code 3:\nhalf of it"):
        go(house)
    assert (house / "page.md").read_text() == before
    assert not list((house / "kept").iterdir())


def test_a_page_without_a_place_for_it_is_named(house):
    (house / "page.md").write_text("nothing\n")
    with pytest.raises(RunError, match=r"page\.md has 0 places for one, instead of one"):
        go(house)


def test_what_is_not_its_output_is_named(house):
    (house / "kept").mkdir()
    (house / "kept" / "one.json").write_text("[]")
    with pytest.raises(UsageError, match=r"one\.json is no output of measure_all\.py; delete it"):
        go(house)


def test_data_sets_and_root_are_asked_for_before_anything_runs(house, monkeypatch):
    monkeypatch.setattr(measure_all.os, "geteuid", lambda: 1000)
    needy = Measurement("one", "python count.py", 1, "page.md", "--data", needs_root=True)
    with pytest.raises(UsageError, match="one: only root may make network namespaces"):
        measure_all.bring([needy], house, house / "kept", again=False)
    monkeypatch.setattr(measure_all.os, "geteuid", lambda: 0)
    with pytest.raises(UsageError, match=r"one: there is no folder .*nowhere"):
        measure_all.bring([needy], house / "nowhere", house / "kept", again=False)
    assert not (house / "runs").exists()

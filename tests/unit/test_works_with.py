"""The pages on what compsgd works with show what their tests run."""

import textwrap

import pytest
from pages import python_blocks
from processes import HELPERS, ROOT

PAGES = ROOT / "docs" / "works_with"
# What each page's snippets are from.
SOURCES = {
    "accelerate": HELPERS / "rank_accelerate.py",
    "fsdp2": ROOT / "scripts" / "examples" / "train_fsdp2.py",
    "lightning": ROOT / "scripts" / "examples" / "train_lightning.py",
    "ray": HELPERS / "ray_trains.py",
    "trainer": ROOT / "scripts" / "examples" / "train_trainer.py",
}


def without_spaces(text):
    """A page's blocks stand further left than in what they are from."""
    return "".join(text.split())


@pytest.mark.parametrize("name", SOURCES)
def test_a_snippet_is_taken_from_what_is_tested(name):
    source = without_spaces(SOURCES[name].read_text())
    found = python_blocks(PAGES / f"{name}.md")
    assert found
    for snippet in found:
        assert without_spaces(snippet) in source, textwrap.indent(snippet, "> ")


def test_every_page_is_in_the_table():
    pages = {page.stem for page in PAGES.glob("*.md")} - {"README"}
    assert pages == set(SOURCES)
    table = (PAGES / "README.md").read_text()
    assert all(f"]({page}.md)" in table for page in pages)


def test_the_table_names_tests_that_there_are():
    words = (PAGES / "README.md").read_text().replace("`", " ").replace(",", " ").split()
    named = [word for word in words if word.startswith("tests/")]
    assert len(named) > 8
    for pattern in named:
        assert list(ROOT.glob(pattern)), pattern
    functions = [word for word in words if word.startswith("test_") and not word.endswith(".py")]
    clients = (ROOT / "tests" / "distributed" / "test_clients.py").read_text()
    assert functions
    assert all(f"def {function}(" in clients for function in functions)

"""README and docs: what they show runs, what they call exists, and what they link to is there."""

import re
import subprocess
import sys

import click
import pytest
from command_line import run
from pages import after, blocks, commands, python_blocks
from processes import ROOT

from compsgd.workers.commands.cli import launch
from compsgd.workers.commands.group import compsgd

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

# What a reader has around a snippet.
AROUND = """
import torch
from torch import nn
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import compsgd

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = nn.Linear(4, 3)
criterion = nn.CrossEntropyLoss()
loader = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(3)]
images, labels = loader[0]
loss = criterion(model(images), labels)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.0, 0.99))


class Batch:
    x, y = images, labels


rounds = [[Batch] * 4] * 2
"""


def run_code(code, folder):
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, f"{code}\n{finished.stderr}"


@pytest.mark.parametrize("name", ["README.md", "docs/hook.md", "docs/optimizers_and_aggregator.md"])
def test_what_a_diff_makes_runs(name, tmp_path):
    found = [block for block in blocks(ROOT / name, "diff") if "+++" not in block]
    assert found
    for diff in found:
        run_code(f"{AROUND}{after(diff)}\ndist.destroy_process_group()\n", tmp_path)


def test_the_snippets_of_the_readme_run(tmp_path):
    found = python_blocks(ROOT / "README.md")
    assert len(found) == 2
    for snippet in found:
        run_code(f"{AROUND}{snippet}\ndist.destroy_process_group()\n", tmp_path)


NOT_FOR_THE_LIBRARY = ("torchvision", "matplotlib", "click", "sklearn", "PIL")
WITHOUT_THEM = f"import sys\nsys.modules.update(dict.fromkeys({NOT_FOR_THE_LIBRARY}))\n"


def test_the_library_needs_torch_numpy_and_numba_alone(tmp_path):
    """So who installs no more (docs/quick_start.md) can use the hook, optimizers and aggregator."""
    (hook,) = blocks(ROOT / "README.md", "diff")
    for code in (after(hook), *python_blocks(ROOT / "README.md")):
        run_code(f"{WITHOUT_THEM}{AROUND}{code}\ndist.destroy_process_group()\n", tmp_path)


def test_a_process_group_by_name(tmp_path):
    (snippet,) = python_blocks(DOCS / "optimizers_and_aggregator.md")
    alone = 'dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)'
    code = snippet.replace('dist.init_process_group("gloo")', alone)
    assert code != snippet
    step = "model(torch.randn(2, 10)).sum().backward()\noptimizer.step()\n"
    run_code(f"{code}{step}dist.destroy_process_group()\n", tmp_path)


def test_snippets_about_a_run(tmp_path):
    quick = ["--model", "mlp", "--steps", "3", "--compile", "off", "--exp_name", "my_run"]
    subprocess.run(
        [sys.executable, "-m", "compsgd", "train", *quick], cwd=tmp_path, check=True, timeout=200,
        capture_output=True,
    )  # fmt: skip
    for page in ("results.md", "plots.md"):
        for snippet in python_blocks(DOCS / page):
            run_code(snippet, tmp_path)
    assert (tmp_path / "accuracy.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_understood(page):
    for first, *words in commands(page):
        if first == "launch.py":
            parse(launch, words)
        else:
            parse(compsgd, words)


def test_what_needs_no_measuring_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = [words for page in PAGES for first, *words in commands(page) if first == "compsgd"]
    asked = [words for words in calls
             if words[0] in ("predict", "bytes") and "--calibrate" not in words]  # fmt: skip
    assert "predict" in [words[0] for words in asked]
    for words in asked:
        result = run(*words, command=compsgd)
        assert result.exit_code == 0, (words, result.output)


def parse(command, words):
    """As on a command line, down to the options of a group's command."""
    with click.Context(command) as context:
        while isinstance(command, click.Group):
            name, *words = words
            found = command.get_command(context, name)
            assert found is not None, f"there is no {name}"
            command, context = found, click.Context(found, context)
        command.make_context(command.name, words, resilient_parsing=False)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in headings(there), target


def headings(page):
    """The anchors of a page, as GitHub and the site name them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_readme_is_a_page():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES[1:]}


def test_every_public_name_is_in_the_reference():
    import compsgd
    from compsgd import comm, history, plots

    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    listed = {line.rpartition(".")[2] for line in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    constants = {"PLOT_NAMES", "Histories", "History", "wrap"}
    for package in (compsgd, comm, history, plots):
        assert set(package.__all__) - constants <= listed


def test_the_changelog_knows_the_version():
    version = re.search(r"^version = (\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]
    released = re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == version

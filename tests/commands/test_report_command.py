"""`compsgd report`: one page of HTML, in which everything is."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from command_line import run

from compsgd.workers.commands.group import compsgd

QUICK = ["--model", "mlp", "--steps", "4", "--batch_size", "128", "--num_workers", "2",
         "--threads", "1", "--compile", "off"]  # fmt: skip


class Page(HTMLParser):
    """What a browser would find in it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.addresses = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["td"], ["th"]):
            self.cells.append(data)


def report(*words):
    return run("report", *words, command=compsgd)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    finished = run(
        *QUICK, "--lr", "0.003", "0.001", "--count_usages", "true", "--diagnose", "2",
        "--log_dir", folder, "--exp_name", "two_rates",
    )  # fmt: skip
    assert finished.exit_code == 0, finished.output
    return folder / "two_rates"


def test_everything_is_in_one_file(experiment, tmp_path):
    out = tmp_path / "report.html"
    result = report("two_rates", "--log_dir", experiment.parent, "--out", out)
    assert (result.exit_code, result.output) == (0, f"{out}\n")
    text = out.read_text()
    page = Page(text)
    cells = json.loads((experiment / "result.json").read_text())["cells"]
    for cell in cells:
        shown = [
            f"{cell['test_acc']:.2f}", f"{cell['bytes_per_worker_and_step']:,.0f}",
            cell["weights_sha256"],
        ]  # fmt: skip
        assert set(shown) <= set(page.cells)
    assert {"lr 0.003, decay 0.99", "--num_bits", "3", "torch"} <= set(page.cells)
    # Nothing is fetched: figures are inside, and there is no script.
    assert len(page.addresses) == 8
    for address in page.addresses:
        kind, data = address.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert b"</svg>" in base64.b64decode(data)
    assert not re.search(r"<script|<link|@import|url\(", text)
    # Of a run in one process it would be a table of zeros.
    assert "All workers were in one process, so that nothing was sent" in text
    assert "process 0 sent" not in text


def test_a_folder_will_do_and_what_the_kernel_has_counted_is_shown(experiment, tmp_path):
    path = experiment / "result.json"
    content = json.loads(path.read_text())
    counted = {
        "wire_bytes_sent": 1234567,
        "kernel_bytes_sent": 1234600,
        "kernel_to_ledger": 1.00003,
    }
    content["cells"][0] |= counted
    content["process_0_bytes_sent"]["gradient"] = 1234500
    copy = tmp_path / "copy & <more>"
    copy.mkdir()
    for name in ("config.json", "histories.pkl"):
        (copy / name).write_bytes((experiment / name).read_bytes())
    (copy / "result.json").write_text(json.dumps(content))
    result = report(copy, "--out", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "report.html").read_text()
    assert "<h1>copy &amp; &lt;more&gt;</h1>" in text
    assert {"1,234,500", "1,234,567", "1,234,600", "1.00003"} <= set(Page(text).cells)


def test_of_a_sweep_that_is_not_finished_it_says_so(experiment, tmp_path):
    copy = tmp_path / "half"
    copy.mkdir()
    for name in ("config.json", "histories.pkl"):
        (copy / name).write_bytes((experiment / name).read_bytes())
    content = json.loads((experiment / "result.json").read_text())
    content["cells"].pop()
    (copy / "result.json").write_text(json.dumps(content))
    assert report(copy, "--out", tmp_path / "report.html").exit_code == 0
    assert "1 more of the sweep is not finished" in (tmp_path / "report.html").read_text()


def test_bad_input_is_a_line(experiment, tmp_path):
    out = tmp_path / "report.html"
    for words, code, message in (
        (["nothing"], 2, "nothing is neither a folder nor an experiment in logs"),
        ([tmp_path], 2, f"{tmp_path} holds no config.json: it is no experiment"),
    ):
        result = report(*words, "--out", out)
        assert result.exit_code == code, result.output
        assert message in result.output
    (tmp_path / "damaged").mkdir()
    for name in ("config.json", "result.json", "histories.pkl"):
        content = (experiment / name).read_bytes()
        (tmp_path / "damaged" / name).write_bytes(content[: len(content) // 2])
    result = report(tmp_path / "damaged", "--out", out)
    assert result.exit_code == 1
    assert "damaged" in result.output
    missing = report(experiment, "--out", tmp_path / "none" / "report.html")
    assert missing.exit_code == 2
    assert "--out" in missing.output
    assert not out.exists()

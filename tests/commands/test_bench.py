"""The benchmarks run, say what they measured, and measure what the optimizer does."""

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from matplotlib.figure import Figure

from compsgd.plots.benchmark import codec_figure
from compsgd.workers.bench import measurements
from compsgd.workers.bench.measurements import CodecCase, measure_codec
from compsgd.workers.commands.group import compsgd

QUICK = ["--repeats", "1", "--compile", "off", "--num_bits", "1", "3"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(*args):
    return CliRunner().invoke(compsgd, ["bench", *map(str, args)], catch_exceptions=False)


def test_codec_reports_every_combination(tmp_path):
    args = ["--sizes", 5000, 200, "--binning", "lin", "--voters", 2, 3]
    args += ["--memory", "range", "both"]
    paths = ["--json", tmp_path / "x.json", "--picture", tmp_path / "x.png"]
    result = run("codec", *QUICK, *args, *paths)
    assert result.exit_code == 0
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["machine"]["threads"] == 1
    records = report["measurements"]
    cases = {(one["numel"], one["num_bits"], one["zeros"]) for one in records}
    assert cases == {(n, b, z) for n in (5000, 200) for b in (1, 3) for z in ("broken", "kept")}
    for one in records:
        assert set(one["votes"]) == {"2", "3"}
        for figures in (one["encode"], *one["votes"].values()):
            assert min(figures.values()) > 0
        assert f"{one['encode']['copies']:.2f}" in result.output
    one, other = (
        r for r in records if (r["numel"], r["num_bits"], r["zeros"]) == (5000, 3, "broken")
    )
    assert (one["memory"], other["memory"]) == ("range", "both")
    assert one["encode"]["limit_copies"] == pytest.approx((24 + 3 / 8) / 8)
    assert other["encode"]["limit_copies"] == pytest.approx((24 + 16 + 3 / 8) / 8)
    assert one["votes"]["3"]["limit_copies"] == pytest.approx((8 + 3 * 3 / 8) / 8)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_a_line_for_each_case_and_the_limit():
    record = {
        "num_bits": 3, "binning": "lin", "compile": "on",
        "encode": {"copies": 3.0, "limit_copies": 2.0},
        "votes": {4: {"copies": 5.0, "limit_copies": 1.0}},
    }  # fmt: skip
    records = [
        record | {"numel": numel, "zeros": zeros}
        for zeros in ("broken", "kept")
        for numel in (100, 1000)
    ]
    figure = codec_figure(records)
    assert isinstance(figure, Figure)
    assert [axis.get_title() for axis in figure.axes] == ["encode", "vote on 4"]
    for axis, copies in zip(figure.axes, (3.0, 5.0), strict=True):
        labels = [line.get_label() for line in axis.get_lines()]
        assert labels == ["3 bits, lin, zeros broken", "3 bits, lin, zeros kept"]
        for line in axis.get_lines():
            assert list(line.get_xdata()) == [100, 1000]
            assert list(line.get_ydata()) == [copies, copies]


def test_step_reports_rounds(tmp_path):
    result = run("step", *QUICK, "--sizes", 1000, "--num_workers", 1, 2, "--json", tmp_path / "x")
    assert result.exit_code == 0
    records = json.loads((tmp_path / "x").read_text())["measurements"]
    assert [(one["num_bits"], one["num_workers"]) for one in records] == [
        (1, 1), (1, 2), (3, 1), (3, 2)
    ]  # fmt: skip
    assert all(one["round_ns"] > 0 and one["first_seconds"] > 0 for one in records)


def test_bad_input_is_one_line():
    assert run("codec", "--sizes", "0").exit_code == 2
    assert run("step", "--num_bits", "9").exit_code == 2
    result = run("codec", "--picture", "x.txt")
    assert result.exit_code == 2
    assert "must end in one of .png, .pdf, .svg" in result.output
    for option in ("--picture", "--json"):
        result = run("codec", option, "nowhere/x.png")
        assert result.exit_code == 2
        assert f"'{option}': nowhere/x.png: there is no folder nowhere" in result.output


def test_the_vote_that_is_timed_moves_parameters(monkeypatch):
    """By -lr for each level, as a vote of so many equal ballots would."""
    moved = []

    def keep(action, numel, repeats):
        action()
        action()
        return measurements.Timing(1.0, 1.0)

    build = CodecCase.build

    def spy(self, *args):
        one = build(self, *args)
        moved.append(one.param_groups[0]["params"][0])
        return one

    monkeypatch.setattr(measurements, "time_beside_copies", keep)
    monkeypatch.setattr(CodecCase, "build", spy)
    measure_codec(CodecCase(3000, 2, "lin", "broken", "off"), [5], 1)
    encoded, voted = moved
    assert not encoded.any()
    levels = (voted / -1e-4).round()
    assert set(levels.tolist()) <= {-4.0, -3.0, -2.0, 2.0, 3.0, 4.0, 0.0}
    assert levels.abs().mean() > 1


MEMORY = """
import torch
from compsgd.workers.bench.measurements import CodecCase, measure_round
torch.set_num_threads(1)
print(measure_round(CodecCase(4_000_000, 3, "lin", "broken", "off"), 4, 2)["peak_extra_copies"])
"""


def test_a_round_takes_less_than_one_copy_of_the_gradient():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=120, check=True
    )
    if done.stdout.strip() == "None":
        pytest.skip("this system does not count peak memory")
    assert float(done.stdout) < 1

"""`compsgd predict`: tables, files and mistakes."""

import json

import pytest
from click.testing import CliRunner

from compsgd.workers.commands import predict_command
from compsgd.workers.commands.group import compsgd
from compsgd.workers.prediction.machine import USUAL
from compsgd.workers.prediction.prediction import Gradients

QUICK = ["--num_parameters", "1000000", "--num_workers", "4"]


def run(*args):
    return CliRunner().invoke(compsgd, ["predict", *map(str, args)])


def test_a_table_for_each_number_of_workers():
    result = run("--num_parameters", 10**6, "--num_workers", 2, 100_000, "--link", "100mbit")
    assert result.exit_code == 0, result.output
    assert "1,000,000 parameters, 100 Mbit/s a host, the exchange alone" in result.output
    assert "\n2 workers, a host each; auto takes all_gather\n" in result.output
    assert "\n100000 workers, a host each; auto takes scatter_reduce\n" in result.output
    lines = result.output.splitlines()
    assert sum(line.startswith("float32 ") for line in lines) == 2
    assert sum(line.startswith("3 bits, scatter_reduce ") for line in lines) == 2


@pytest.mark.parametrize(
    ("written", "number"),
    [("25M", "25,000,000"), ("70b", "70,000,000,000"), ("64k", "64,000"), ("12", "12")],
)
def test_sizes_of_models_are_written_as_usual(written, number):
    for command in ("predict", "bytes"):
        result = CliRunner().invoke(compsgd, [command, *QUICK[2:], "--num_parameters", written])
        assert result.exit_code == 0, result.output
        assert f"{number} parameters" in result.output


@pytest.mark.parametrize("written", ["25G", "M", "1.0001K", "0M", "-1M", "1e6", "2 M"])
def test_sizes_that_are_none_are_told(written):
    result = run("--num_parameters", written)
    assert result.exit_code == 2
    assert "--num_parameters" in result.output
    assert result.output.count("\n") <= 4


def test_hosts_have_an_exchange_of_their_own():
    alone = run(*QUICK)
    together = run(*QUICK, "--workers_per_host", 2)
    assert "hierarchical" not in alone.output
    assert "4 workers on 2 hosts" in together.output
    assert "3 bits, hierarchical" in together.output
    assert "scatter_reduce" in run(*QUICK, "--exchange", "hierarchical").output


def test_the_models_parameters():
    result = run("--model", "mlp", "--num_workers", 2, "--num_bits", 3)
    assert result.output.startswith("235,146 parameters")


def test_figures_are_written(tmp_path):
    result = run(*QUICK, "--json", tmp_path / "x.json", "--plot", tmp_path / "x.png")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "x.json").read_text())
    (cluster,) = report["clusters"]
    assert (report["numel"], cluster["num_workers"]) == (10**6, 4)
    assert cluster["link"] == pytest.approx({"bits_per_s": 1e9, "latency_s": 50e-6})
    names = [one["method"]["name"] for one in cluster["predictions"]]
    assert names[:2] == ["float32", "16 bits"]
    for one in cluster["predictions"][2:]:
        assert one["pays_below"] == "always" or one["pays_below"] >= 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_measured_is_saved_and_read(tmp_path, monkeypatch):
    machine = USUAL.slowed(3.0)
    seen = []

    def measured(num_bits, numel):
        seen.append((tuple(num_bits), numel))
        return machine

    monkeypatch.setattr(predict_command, "calibrate", measured)
    path = tmp_path / "machine.json"
    first = run(*QUICK, "--calibrate", "--machine", path)
    assert first.exit_code == 0, first.output
    assert seen == [((1, 3), 10**6)]
    again = run(*QUICK, "--machine", path)
    assert again.output == first.output
    assert again.output != run(*QUICK).output
    assert len(seen) == 1


def test_a_models_step_is_measured_unless_it_is_told(monkeypatch):
    monkeypatch.setattr(predict_command, "calibrate", lambda num_bits, numel: USUAL)
    monkeypatch.setattr(predict_command, "model_step_s", lambda *args: 0.25)
    assert "250.0 ms of forward and backward" in run("--model", "mlp", "--calibrate").output
    assert "20.0 ms of" in run("--model", "mlp", "--calibrate", "--step", "20ms").output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--link", "fast"], "is no rate of a link"),
        (["--latency", "5"], "is no duration: write 50us"),
        (["--num_workers", 1], "not in the range"),
        (["--num_workers", 100_001], "not in the range"),
        (["--num_workers", 4, "--workers_per_host", 3], "does not divide --num_workers 4"),
        (["--num_bits", 9], "not in the range"),
        (["--machine", "none.json"], "none.json: No such file"),
        (["--plot", "x.gif"], "must end in one of .png"),
        (["--json", "nowhere/x.json"], "'--json': nowhere/x.json: there is no folder nowhere"),
        (["--plot", "nowhere/x.png"], "'--plot': nowhere/x.png: there is no folder nowhere"),
    ],
)
def test_mistakes_are_told_in_a_line(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--num_parameters", 1000, *args)
    assert result.exit_code == 2
    assert words in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_lacks_a_vote_is_told(tmp_path):
    path = tmp_path / "machine.json"
    document = {"votes": {"3": vars(USUAL.votes[3])}}
    speeds = {name: value for name, value in vars(USUAL).items() if name != "votes"}
    path.write_text(json.dumps(document | speeds))
    result = run(*QUICK, "--machine", path, "--num_bits", 2)
    assert result.exit_code == 2
    assert "--num_bits 2 is not among what --machine" in result.output
    assert Gradients(3).num_tensors == 1

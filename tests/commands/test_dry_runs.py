"""Options from files (`--config`), and runs that are only described (`--dry_run`)."""

import json
import re

import pytest
from command_line import run
from stopping import outcome

QUICK = ["--model", "mlp", "--batch_size", "256", "--num_workers", "2", "--threads", "1"]


def described(*args, cwd):
    """By name, what --dry_run says."""
    result = run(*args, "--dry_run", cwd=cwd)
    assert result.exit_code == 0, result.output
    return dict(re.split(r"\s{2,}", line) for line in result.output.splitlines() if "  " in line)


def test_a_description_is_what_the_run_sends(tmp_path):
    args = [*QUICK, "--epochs", "2", "--exempt_1d", "--lr", "0.1"]
    found = described(*args, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert run(*args, "--exp_name", "x", cwd=tmp_path).exit_code == 0
    (cell,) = json.loads((tmp_path / "logs" / "x" / "result.json").read_text())["cells"]
    sent = cell["bytes_per_worker_and_step"]
    assert found["bytes/worker/step"] == f"{sent:,.0f}"
    assert found["compression"] == f"{cell['compression_rate']:.2f}x"
    assert found["rounds"] == f"{cell['num_steps']}, {cell['num_steps'] // 2} an epoch"
    num_biases = 256 + 128 + 10
    numel = cell["num_parameters"]
    assert found["parameters"] == f"{numel:,}, of which {numel - num_biases:,} are compressed"
    assert found["--exempt_1d"] == "true"


def test_a_description_of_data_that_is_not_there(tmp_path):
    found = described("--dataset", "CIFAR10", "--model", "mlp", cwd=tmp_path)
    assert found["data"] == "CIFAR10, which is not downloaded yet"
    result = run("--dataset", "CIFAR10", "--download", "false", "--dry_run", cwd=tmp_path)
    assert result.exit_code == 2
    assert "CIFAR10 is not complete in" in result.stderr


def test_a_description_refuses_what_the_run_would(tmp_path):
    result = run("--model", "gpt", "--dry_run", cwd=tmp_path)
    assert result.exit_code == 2
    assert "--model gpt is made for text" in result.stderr


def test_options_from_a_file_and_the_command_line_wins(tmp_path):
    (tmp_path / "some.toml").write_text(
        'model = "mlp"\nbatch-size = 256\nlr = [0.1, 0.2]\nepochs = 7\nrand_zero = false\n'
    )
    found = described("--config", "some.toml", "--batch_size", "128", cwd=tmp_path)
    assert found["--model"] == "mlp"
    assert found["--batch_size"] == "128"
    assert found["--lr"] == "0.1 0.2"
    assert found["--rand_zero"] == "false"
    found = described("--config", "some.toml", "--steps", "3", "--lr", "0.5", cwd=tmp_path)
    assert (found["--steps"], found["--epochs"], found["--lr"]) == ("3", "-", "0.5")


def test_one_value_for_an_option_that_takes_several(tmp_path):
    (tmp_path / "some.toml").write_text("lr = 0.5\nweight_decay = 0.7\n")
    found = described("--config", "some.toml", cwd=tmp_path)
    assert (found["--lr"], found["--range_decay"]) == ("0.5", "0.7")


def test_a_run_is_repeated_from_its_config(tmp_path):
    args = [*QUICK, "--epochs", "1", "--lr", "0.1", "0.2", "--seed", "3"]
    assert run(*args, "--exp_name", "first", cwd=tmp_path).exit_code == 0
    config = ["--config", "logs/first/config.json"]
    assert run(*config, "--exp_name", "second", cwd=tmp_path).exit_code == 0
    assert outcome(tmp_path / "logs" / "second") == outcome(tmp_path / "logs" / "first")
    # Its own name is made anew, and taken by nobody.
    assert run(*config, cwd=tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "lrr = 1", "a.toml: there is no option lrr"),
        ("a.toml", 'lr = "x"', "a.toml: lr: 'x' is not a number"),
        ("a.toml", "num_bits = 99", "a.toml: num_bits: 99 is not in the range"),
        ("a.toml", 'model = "vgg"', "a.toml: model: 'vgg' is not one of"),
        ("a.toml", "[training]\nlr = 1", "a.toml: [training] is a table"),
        ("a.toml", "lr = ", "a.toml is no TOML: "),
        ("a.toml", "\udcff", "a.toml is no TOML: "),
        ("a.toml", 'config = "a.toml"', "a.toml: there is no option config"),
        ("a.json", "{}", "a.json is damaged, or none of ours: it has no options"),
        ("a.json", "[", "a.json is damaged, or none of ours: line 1 is no JSON"),
        ("b.json", "", "a.json cannot be read: No such file"),
        ("b.toml", "", "a.toml cannot be read: No such file"),
    ],
)
def test_files_that_are_none(name, content, message, tmp_path):
    (tmp_path / name).write_text(content, errors="surrogateescape")
    result = run("--config", "a" + name[1:], cwd=tmp_path)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "logs").exists()

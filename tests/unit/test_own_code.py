"""A user's own code, named as module:factory."""

import json
import sys

import pytest
import torch

from compsgd.workers.failures import UsageError
from compsgd.workers.own_code import call, find_factory, is_own, told

MODULE = """
class Net:
    @staticmethod
    def build(format):
        return format
number = 5
def fails(root):
    raise ValueError("no\\ngood")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current one, with a module; nothing of it is left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "own_module.py").write_text(MODULE)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_is_own():
    assert is_own("a.b:c")
    assert not is_own("vanilla_cnn")


def test_it_is_found_in_the_current_folder(folder):
    assert find_factory("--model", "own_module:Net.build")(3) == 3


def test_it_is_found_among_what_is_installed():
    assert find_factory("--model", "torch:nn.Linear")(2, 3).out_features == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing:build", r"--model missing:build: there is no module missing; .* were searched"),
        ("torch.missing:build", "there is no module torch.missing"),
        ("own_module:missing", "own_module has no missing"),
        ("own_module:Net.missing", r"own_module has no Net\.missing"),
        ("own_module:number", "own_module:number is a int; it must be a function or a class"),
        ("broken:build", r"importing broken failed: SyntaxError: .*\(.*broken.py, line 1\)"),
        ("raising:build", r"importing raising failed: KeyError: 'x' \(.*raising.py, line 2\)"),
        ("needs:build", r"importing needs failed: ModuleNotFoundError: No module named 'absent'"),
    ],
)
def test_what_cannot_be_found_is_a_line(name, message, folder):
    (folder / "broken.py").write_text("def build(:\n")
    (folder / "raising.py").write_text("import sys\n{}['x']\n")
    (folder / "needs.py").write_text("import absent\n")
    with pytest.raises(UsageError, match=message) as raised:
        find_factory("--model", name)
    assert "\n" not in raised.value.format_message()


def test_what_a_factory_raises_is_a_line(folder):
    factory = find_factory("--dataset", "own_module:fails")
    with pytest.raises(UsageError) as raised:
        call("--dataset", "own_module:fails", factory, folder, "--dataset_root")
    assert raised.value.format_message() == (
        "--dataset own_module:fails: calling it with --dataset_root failed: ValueError: no good "
        f"({folder / 'own_module.py'}, line 8)"
    )


def test_a_factory_without_an_argument_is_told_what_it_is_called_with():
    with pytest.raises(UsageError) as raised:
        call("--model", "m:f", lambda: None, None, "the format of the data")
    message = raised.value.format_message()
    assert message.startswith("--model m:f: calling it with the format of the data failed: Type")
    assert message.endswith("takes 0 positional arguments but 1 was given")


def test_where_it_was_raised_is_a_line_of_the_users_own():
    """Not of what that calls: here of json and of torch."""
    with pytest.raises(json.JSONDecodeError) as raised:
        exec(compile("import json\njson.loads('[')", "/home/me/own.py", "exec"), {})
    assert told(raised.value).endswith("(/home/me/own.py, line 2)")
    model = torch.nn.Linear(2, 3)
    with pytest.raises(RuntimeError) as raised:
        exec(compile("\n\nmodel(one)", "own.py", "exec"), {"model": model, "one": torch.ones(1)})
    assert told(raised.value).endswith("(own.py, line 3)")


def test_an_exception_without_words():
    assert told(ValueError()) == "ValueError"

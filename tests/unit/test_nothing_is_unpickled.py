"""Unpickling what somebody else has written runs whatever he likes. Nothing of ours does."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("compsgd", "comm", "plots", "workers", "scripts")
PATHS = [ROOT / "launch.py", *(p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py")))]

# Attributes and names that unpickle, or lead to a rendezvous that does.
FORBIDDEN = {
    "gather_object", "all_gather_object", "broadcast_object_list", "scatter_object_list",
    "send_object_list", "recv_object_list", "rpc", "elastic_launch", "LaunchConfig",
    "Unpickler", "loads of pickle", "load of pickle", "load of dill", "load of joblib",
}  # fmt: skip
# Who reads pickles at all: a reader that admits data only, and says why at its head.
READERS = {"compsgd/history/histories.py": {"Unpickler"}}


def unpickles(path):
    """Line and name of everything in a file that may unpickle."""
    for node in ast.walk(ast.parse(path.read_text())):
        for name in suspicious(node):
            yield node.lineno, name


def suspicious(node):
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        return forbidden(owner, [node.attr])
    if isinstance(node, ast.ImportFrom):
        return forbidden(node.module, [alias.name for alias in node.names])
    if isinstance(node, ast.Call):
        return careless(ast.unparse(node.func), {word.arg: word.value for word in node.keywords})
    return []


def forbidden(owner, names):
    return [name for name in names if {name, f"{name} of {owner}"} & FORBIDDEN]


def careless(function, keywords):
    """Functions that unpickle unless, or if, they are told to."""
    said = {name: ast.unparse(value) for name, value in keywords.items()}
    safe = {"torch.load": said.get("weights_only") == "True",
            "np.load": said.get("allow_pickle", "False") == "False"}  # fmt: skip
    return [] if safe.get(function, True) else [function]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_of_ours_does(path):
    allowed = READERS.get(path.relative_to(ROOT).as_posix(), set())
    found = [(line, name) for line, name in unpickles(path) if name not in allowed]
    assert not found, f"{path}: {found}; send tensors or JSON instead"


@pytest.mark.parametrize(
    "code",
    [
        "import torch.distributed as dist\ndist.all_gather_object(found, 1)",
        "from torch.distributed import broadcast_object_list",
        "from torch.distributed.launcher.api import elastic_launch",
        "import pickle\npickle.loads(received)",
        "from pickle import load",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "from torch.distributed import rpc",
    ],
)
def test_what_does_is_seen(code, tmp_path):
    (tmp_path / "x.py").write_text(code)
    assert list(unpickles(tmp_path / "x.py"))


@pytest.mark.parametrize(
    "code",
    [
        "import json\njson.loads(received)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path)",
        "import pickle\npickle.dumps(mine)",
    ],
)
def test_what_does_not_is_let_through(code, tmp_path):
    (tmp_path / "x.py").write_text(code)
    assert not list(unpickles(tmp_path / "x.py"))


def test_no_command_of_ours_asks_for_such_a_rendezvous():
    """`--standalone` and c10d keep a pickle in a store that anybody reaches."""
    for path in [*PATHS, *(ROOT / "scripts").glob("*.sh")]:
        assert "--standalone" not in path.read_text(), path
        assert "rdzv" not in path.read_text(), path

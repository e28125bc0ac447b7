"""The house (design, section 7): imports point one way, packages are where they are declared."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "compsgd": set(),
    "comm": {"compsgd"},
    "plots": {"compsgd"},
    "workers": {"compsgd", "comm", "plots"},
}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its direction"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module):
    parts = module.split(".")
    if parts[0] != "compsgd":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "compsgd"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room):
    paths = [path for path in (ROOT / room).glob("*.py") if not path.is_symlink()]
    assert paths
    for path in paths:
        for module in imported_modules(path):
            assert room_of(module) in {None, room} | MAY_IMPORT[room], f"{path} imports {module}"


def test_the_mathematics_knows_torch_and_numpy_only():
    import sys

    for path in (ROOT / "compsgd").glob("*.py"):
        allowed = {"torch", "numpy", "compsgd"} | ({"numba"} if path.name == "loops.py" else set())
        for module in imported_modules(path):
            top = module.split(".")[0]
            assert top in allowed | set(sys.stdlib_module_names), f"{path} imports {module}"
            assert not module.startswith("torch.distributed"), f"{path} imports {module}"


def test_packages_are_linked_and_declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = setup["options"]["packages"].split()
    assert packages == ["compsgd", "compsgd.comm", "compsgd.workers", "compsgd.plots"]
    for room in ("comm", "workers", "plots"):
        link = ROOT / "compsgd" / room
        assert link.is_symlink()
        assert link.readlink() == Path("..") / room
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(MAY_IMPORT)

"""The house (design, section 7): imports point one way, packages are where they are declared."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "compsgd": set(),
    "comm": {"compsgd"},
    "plots": {"compsgd"},
    "workers": {"compsgd", "comm", "plots"},
}
# Inside compsgd, floors: what stands further down imports nothing from above.
FLOORS = ("errors checks kinds strict_json layout rng gradient files unpickling", "codec",
          "settings", "voting", "upwards", "optim", "history")  # fmt: skip
# Where the way up begins, inside functions: `process_group=`, `compsgd.comm`, `python -m compsgd`.
UPWARDS = {"upwards.py", "__main__.py"}


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


def files_of(room, pattern="*.py"):
    """Of the room and of those in it, without what is linked into it."""
    folder = ROOT / room
    return [path for path in folder.rglob(pattern) if path.resolve().is_relative_to(folder)]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room):
    paths = files_of(room)
    assert paths
    for path in paths:
        if room == "compsgd" and path.name in UPWARDS:
            continue
        for module in imported_modules(path):
            assert room_of(module) in {None, room} | MAY_IMPORT[room], f"{path} imports {module}"


def test_the_way_up_begins_inside_functions():
    tree = ast.parse((ROOT / "compsgd" / "upwards.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            assert room_of(node.module) in (None, "compsgd")


def floor_of(module):
    name = module.split(".")[1] if "." in module else ""
    return next((i for i, names in enumerate(FLOORS) if name in names.split()), None)


def test_imports_inside_compsgd_lead_down():
    for path in files_of("compsgd"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        floor = floor_of(name)
        assert floor is not None or path.parent == ROOT / "compsgd", f"{path} is on no floor"
        for module in imported_modules(path):
            other = floor_of(module) if room_of(module) == "compsgd" else None
            if floor is not None and other is not None:
                assert other <= floor, f"{path} imports {module}, which is above it"


def test_the_mathematics_knows_torch_and_numpy_only():
    import sys

    for path in files_of("compsgd"):
        has_numba = path.name == "numba_kernels.py"
        allowed = {"torch", "numpy", "compsgd"} | ({"numba"} if has_numba else set())
        for module in imported_modules(path):
            top = module.split(".")[0]
            assert top in allowed | set(sys.stdlib_module_names), f"{path} imports {module}"
            assert not module.startswith("torch.distributed"), f"{path} imports {module}"


def package_in(folder):
    parts = folder.split("/")
    return ".".join(parts if parts[0] == "compsgd" else ["compsgd", *parts])


def test_packages_are_linked_and_declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = [
        str(path.parent.relative_to(ROOT))
        for room in MAY_IMPORT
        for path in files_of(room, "__init__.py")
    ]
    expected = {package_in(folder): folder for folder in folders}
    assert sorted(setup["options"]["packages"].split()) == sorted(expected)
    lines = setup["options"]["package_dir"].strip().splitlines()
    assert dict(line.split(" = ") for line in lines) == expected
    for room in ("comm", "workers", "plots"):
        link = ROOT / "compsgd" / room
        assert link.is_symlink()
        assert link.readlink() == Path("..") / room
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(MAY_IMPORT)

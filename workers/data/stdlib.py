"""The source of Python's own standard library as a text: always there, with no download."""

import sys
import sysconfig
from pathlib import Path

from compsgd.workers.data.splits import Dataset
from compsgd.workers.data.text import as_dataset, split_off_last_tenth
from compsgd.workers.failures import UsageError

# Tests, tools and tables, which few machines have all of.
_LEFT_OUT = {"encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter",
             "turtledemo"}  # fmt: skip
# Loaded in a moment, and more than a small model learns by heart.
_MOST_CHARACTERS = 4_000_000
# For what is not ASCII: a few names and tables, each character of which would be a token.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def load_stdlib(root: Path, context: int) -> Dataset:
    """Its modules and packages in the order of their paths, up to 4 million characters. The last
    tenth is held out. Another version of Python has another text.

    Args:
        root: not needed.
        context: how many characters a sequence has.

    Raises:
        UsageError: this Python has no sources, or a sequence is longer than the text.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    text, held_out = split_off_last_tenth(_read_up_to(_MOST_CHARACTERS, source_files(folder)))
    if not text:
        raise UsageError(f"--dataset stdlib: {folder} has no source files")
    return as_dataset(text, held_out, context, "Python's standard library")


def source_files(folder: Path) -> list[Path]:
    """Of the standard library proper: what else lies in its folder differs between machines."""
    modules = [folder / f"{name}.py" for name in sys.stdlib_module_names]
    packages = [path for name in sys.stdlib_module_names for path in (folder / name).rglob("*.py")]
    return sorted(
        path
        for path in modules + packages
        if path.is_file() and _LEFT_OUT.isdisjoint(path.relative_to(folder).parts)
    )


def _read_up_to(most: int, paths: list[Path]) -> str:
    parts: list[str] = []
    length = 0
    for path in paths:
        if length >= most:
            break
        try:
            part = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError):
            continue
        parts.append("".join(one if one.isascii() else _REPLACEMENT for one in part))
        length += len(part)
    return "".join(parts)[:most]

"""What the pages of the documentation show."""

import re
from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page that are of a language, in its order."""
    found = page.read_text().split(f"```{language}\n")[1:]
    return [block.partition("```")[0] for block in found]


def python_blocks(page: Path) -> list[str]:
    return blocks(page, "python")


def after(diff: str) -> str:
    """What a diff makes."""
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] != "-")


def commands(page: Path) -> list[list[str]]:
    """The words of each call of compsgd or launch.py in shell, from there on."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    found = []
    for call in (part for line in lines for part in re.sub(r"\s+#.*", "", line).split("&&")):
        words = call.replace('"', "").split()
        if words[:1] == ["compsgd"]:
            found.append(words)
        elif "launch.py" in words:
            found.append(words[words.index("launch.py") :])
    return found

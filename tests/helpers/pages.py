"""What the pages of the documentation show."""

from pathlib import Path


def python_blocks(page: Path) -> list[str]:
    """The Python blocks of a page, in its order."""
    blocks = page.read_text().split("```python\n")[1:]
    return [block.partition("```")[0] for block in blocks]

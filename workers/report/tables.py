"""Plain text tables."""

from collections.abc import Sequence


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest text, the first to the left and all others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        numbers = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join([row[0].ljust(widths[0]), *numbers])

    rule = "-" * len(line(head))
    return "\n".join([line(head), rule, *map(line, rows)])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left and all others to the right."""

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", r"\|") for text in row) + " |"

    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(map(line, (head, rule, *rows)))

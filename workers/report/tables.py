"""Plain text tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from compsgd.workers.train.measures import Column, format_number


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


def option_text(value: Any) -> str:
    """The value of an option, nearly as one types it; a hyphen for none.

    Args:
        value: of an option, perhaps several.
    """
    if isinstance(value, (list, tuple)):
        return " ".join(map(option_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else str(value)


def result_table(
    cells: Sequence[Mapping[str, Any]],
    labels: Mapping[tuple[float, float], str],
    columns: Sequence[Column],
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what a run has come to.

    Args:
        cells: as in result.json.
        labels: what each is called, by learning rate and decay.
        columns: which scores are shown.
    """
    head = ["cell", *(one.head for one in columns), "bytes/worker/step", "compression", "seconds"]
    return head, [
        [
            labels[cell["lr"], cell["decay"]],
            *(format_number(cell[column.result], column.digits) for column in columns),
            f"{cell['bytes_per_worker_and_step']:,.0f}",
            "-" if cell["compression_rate"] is None else f"{cell['compression_rate']:.2f}x",
            f"{cell['seconds']:.1f}",
        ]
        for cell in cells
    ]

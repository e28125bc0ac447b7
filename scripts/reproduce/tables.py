"""Ours beside the published, as text and as Markdown."""

from collections.abc import Sequence
from typing import NamedTuple

from cells import Cell, Family
from measures import Numbers, finished_folders, mean
from running import Laboratory

from compsgd.workers.report.tables import format_table, markdown_table

NOISE_FLOOR_POINTS = 0.6
_NOTHING = "-"
_FLAG = "*"


class Table(NamedTuple):
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        return format_table(self.head, self.rows)

    def as_markdown(self) -> str:
        return markdown_table(self.head, self.rows)


def cells_table(family: Family, grid: str, laboratory: Laboratory) -> Table:
    """A row a cell: ours, the published, how they differ, and whether by more than the noise."""
    head = ["run", "ours", "published", "difference", f"> {NOISE_FLOOR_POINTS}", "runs"]
    return Table(head, [_row(cell, family, grid, laboratory) for cell in family.chosen(grid)])


def _row(cell: Cell, family: Family, grid: str, laboratory: Laboratory) -> list[str]:
    folders = finished_folders(cell, grid, laboratory)
    ours = mean(family.measure, folders) if folders else ()
    apart = difference(ours, cell.published) if ours and cell.published else None
    is_flagged = apart is not None and abs(apart) > NOISE_FLOOR_POINTS
    return [
        cell.label,
        _text(ours),
        _text(cell.published),
        _NOTHING if apart is None else f"{apart:+.2f}",
        _FLAG if is_flagged else "",
        f"{len(folders)}/{len(cell.trainings(grid))}",
    ]


def difference(ours: Numbers, published: Numbers) -> float:
    """In points; of several numbers the one that is furthest off."""
    return max((a - b for a, b in zip(ours, published, strict=True)), key=abs)


def contrasts_table(family: Family, grid: str, laboratory: Laboratory) -> Table:
    """A row a claim: the difference of two cells, ours and the published, where both are there."""
    cells = {cell.label: cell for cell in family.chosen(grid)}
    rows = []
    for label, more, less in ((one.label, one.more, one.less) for one in family.contrasts):
        if more not in cells or less not in cells:
            continue
        folders = [finished_folders(cells[name], grid, laboratory) for name in (more, less)]
        ours = [mean(family.measure, found)[0] for found in folders if found]
        published = cells[more].published[0] - cells[less].published[0]
        rows.append(
            [
                label,
                f"{ours[0] - ours[1]:+.2f}" if len(ours) == 2 else _NOTHING,
                f"{published:+.2f}",
            ]
        )
    return Table(["points between", "ours", "published"], rows)


def _text(numbers: Numbers) -> str:
    decimals = 2 if len(numbers) <= 2 else 1
    return " ".join(f"{number:.{decimals}f}" for number in numbers) or _NOTHING


def as_markdown(family: Family, grid: str, laboratory: Laboratory) -> str:
    head = [
        f"### {family.title}",
        f"Published: {family.source}; {family.measure}, %. {family.claim}",
    ]
    return _page([*head, *(table.as_markdown() for table in _tables(family, grid, laboratory))])


def as_text(family: Family, grid: str, laboratory: Laboratory) -> str:
    head = f"{family.title}: {family.measure}, %. Published: {family.source}"
    return _page([head, *(table.as_text() for table in _tables(family, grid, laboratory))])


def _tables(family: Family, grid: str, laboratory: Laboratory) -> list[Table]:
    contrasts = contrasts_table(family, grid, laboratory)
    return [cells_table(family, grid, laboratory), *([contrasts] if contrasts.rows else [])]


def _page(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"

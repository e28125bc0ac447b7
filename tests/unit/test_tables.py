"""Plain text tables."""

from compsgd.workers.report.tables import format_table, markdown_table


def test_the_first_column_to_the_left_and_numbers_to_the_right():
    table = format_table(["run", "bytes"], [["a", "7"], ["longer", "1,234,567"]])
    assert table.splitlines() == [
        "run         bytes",
        "-----------------",
        "a               7",
        "longer  1,234,567",
    ]


def test_no_rows():
    assert format_table(["run", "bytes"], []) == "run  bytes\n----------"


def test_markdown_keeps_a_bar_inside_its_cell():
    table = markdown_table(["saying", "times"], [["a | b", "7"]])
    assert table == "| saying | times |\n| --- | ---: |\n| a \\| b | 7 |"

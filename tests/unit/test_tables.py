"""Plain text tables."""

from compsgd.workers.report.tables import format_table, markdown_table, option_text


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


def test_options_are_shown_as_they_are_typed():
    given = ([0.003, 0.001], (1.0,), True, False, None, "auto", 3)
    assert [option_text(value) for value in given] == [
        "0.003 0.001", "1.0", "true", "false", "-", "auto", "3",
    ]  # fmt: skip

"""JSON of anybody: what it holds, or one error that names the line."""

import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compsgd.errors import DamagedDataError
from compsgd.strict_json import parse_json, read_json

SIMPLE = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text()
NUMBERS = SIMPLE | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                      max_leaves=20)  # fmt: skip


@given(VALUES)
def test_what_json_writes_is_read(value):
    for indent in (None, 2):
        assert parse_json(json.dumps(value, indent=indent).encode()) == value


@given(st.binary(max_size=60) | st.text('[]{}":,\\0123456789-.eENaInfty \n').map(str.encode))
def test_anything_else_is_an_error_of_ours(content):
    try:
        value = parse_json(content)
    except DamagedDataError:
        return
    assert value == json.loads(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":\n NaN}', "line 2 has NaN"),
        (b"[\n-Infinity]", "line 2 has -Infinity"),
        (b'{"a": 1,\n\n"a": 2}', "line 3 has the key 'a' a second time"),
        (b'{"a": 1, "\\u0061": 2}', "the key 'a' a second time"),
        (b"[" * 100_000, "line 1 is nested more than 32 deep"),
        (b"\n[1" + b"0" * 5000 + b"]", "line 2 has a number of 5,001 digits"),
        (b"[1e999]", "has 1e999, which is too large"),
        (b"[1,\n2", "line 2 is no JSON: "),
        (b"", "line 1 is no JSON"),
        (b"[\n\xff]", "line 2 is no UTF-8"),
    ],
)
def test_the_line_is_named(content, message):
    with pytest.raises(DamagedDataError, match=message):
        parse_json(content)


def test_brackets_and_keys_within_strings_are_text():
    value = {"[[[": ["]", '"{', "NaN", "\\"], "a": {"a": {"a": 1}}}
    assert parse_json(json.dumps(value).encode()) == value


def test_a_string_without_an_end_is_looked_at_once():
    began = time.process_time()
    with pytest.raises(DamagedDataError):
        parse_json(b'"' + b'\\"' * 500_000)
    assert time.process_time() - began < 20  # quadratic would be hours


def test_files(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
    monkeypatch.setattr("compsgd.strict_json.MAX_SIZE_BYTES", 5)
    with pytest.raises(DamagedDataError, match=r"x\.json: it has more than 5 bytes"):
        read_json(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedDataError, match="pipe is no regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nothing")

"""JSON that anybody may have written: of a bounded size and depth, without what JSON has not.

Python's reader takes NaN, a key twice, integers of any length and lists within lists until its
stack ends. Here these are errors, which name the line.
"""

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

from compsgd.errors import DamagedDataError

MAX_SIZE_BYTES = 1 << 26
_MAX_DEPTH = 32
_MAX_DIGITS = 400

# Strings end at the text's end at the latest, so that none is looked at twice.
_TOKEN = re.compile(
    r'(?P<string>"[^"\\]*(?:\\.[^"\\]*)*"?)(?P<colon>\s*:)?'
    r"|(?P<opens>[\[{])|(?P<closes>[\]}])"
    r"|(?P<number>-?\d[-+.\deE]*)|(?P<constant>-?Infinity|NaN)",
    re.DOTALL,
)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        DamagedDataError: it is no JSON, or none that we would write; the message names the file
            and the line.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DamagedDataError(f"{path} is no regular file")
    with path.open("rb") as file:
        content = file.read(MAX_SIZE_BYTES + 1)
    try:
        return parse_json(content)
    except DamagedDataError as error:
        raise DamagedDataError(f"{path}: {error}") from error


def parse_json(content: bytes) -> Any:
    """The same of bytes.

    Raises:
        DamagedDataError: as above; the message names the line.
    """
    if len(content) > MAX_SIZE_BYTES:
        raise DamagedDataError(f"it has more than {MAX_SIZE_BYTES:,} bytes")
    try:
        text = content.decode()
        _check_tokens(text)
        return json.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DamagedDataError(f"line {line} is no UTF-8") from error
    except json.JSONDecodeError as error:
        raise DamagedDataError(f"line {error.lineno} is no JSON: {error.msg}") from error


def _check_tokens(text: str) -> None:
    """What Python's reader takes and we do not; the grammar is left to that reader."""
    keys_by_depth: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        problem = _problem(token, keys_by_depth)
        if problem is not None:
            line = text.count("\n", 0, token.start()) + 1
            raise DamagedDataError(f"line {line} {problem}")


def _problem(token: re.Match[str], keys_by_depth: list[set[str]]) -> str | None:
    """Of a token, within lists and mappings whose keys so far are known."""
    if token["opens"]:
        keys_by_depth.append(set())
        is_deep = len(keys_by_depth) > _MAX_DEPTH
        return f"is nested more than {_MAX_DEPTH} deep" if is_deep else None
    if token["closes"]:
        del keys_by_depth[-1:]
    elif token["colon"] and keys_by_depth:
        return _note_key(token["string"], keys_by_depth[-1])
    elif token["number"]:
        return _number_problem(token["number"])
    elif token["constant"]:
        return f"has {token['constant']}, which is no JSON"
    return None


def _note_key(string: str, keys: set[str]) -> str | None:
    try:
        key = json.loads(string)
    except ValueError:
        return None
    if key in keys:
        return f"has the key {key[:40]!r} a second time"
    keys.add(key)
    return None


def _number_problem(number: str) -> str | None:
    if len(number) > _MAX_DIGITS:
        return f"has a number of {len(number):,} digits"
    try:
        return None if math.isfinite(float(number)) else f"has {number[:40]}, which is too large"
    except ValueError:
        return None

"""A user's own model or data, named as module:factory on the command line."""

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compsgd.workers.failures import UsageError

SEPARATOR = ":"


def is_own(name: str) -> bool:
    """Whether it names a factory, and nothing that comes with compsgd."""
    return SEPARATOR in name


def find_factory(option: str, name: str) -> Callable[..., Any]:
    """What a name like package.module:factory stands for. Modules of the current folder are found,
    and all that are installed.

    Args:
        option: whose value it is, for errors.
        name: of the module and, behind a colon, of what is in it.

    Raises:
        UsageError: there is no such module, importing it fails, or it has no such callable.
    """
    module_name, _, attribute = name.partition(SEPARATOR)
    found = _imported(option, name, module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{option} {name}: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(
            f"{option} {name} is a {type(found).__name__}; it must be a function or a class"
        )
    result: Callable[..., Any] = found
    return result


def _imported(option: str, name: str, module_name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # It may itself import what is not there.
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise _failed(f"{option} {name}: importing {module_name}", error) from error
        raise UsageError(
            f"{option} {name}: there is no module {error.name}; {here} and what is "
            "installed were searched"
        ) from error
    except Exception as error:
        raise _failed(f"{option} {name}: importing {module_name}", error) from error


def call(option: str, name: str, factory: Callable[..., Any], *args: Any) -> Any:
    """What a factory returns; raises UsageError for whatever it raises."""
    try:
        return factory(*args)
    except Exception as error:
        raise _failed(f"{option} {name}: calling it", error) from error


def told(error: Exception) -> str:
    """An exception of a user's code in a line: what it is, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}, line {error.lineno})"
        error = SyntaxError(error.msg)
    words = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if words else ''}{words}{where}"


def _failed(what: str, error: Exception) -> UsageError:
    return UsageError(f"{what} failed: {told(error)}")

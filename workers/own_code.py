"""A user's own model or data, named as module:factory on the command line."""

import importlib
import sys
import sysconfig
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


def call(option: str, name: str, called: Callable[..., Any], argument: Any, words: str) -> Any:
    """What a user's function returns; raises UsageError for whatever it raises.

    Args:
        option: which names it, for errors.
        name: its module:factory.
        called: the factory, or what it has made.
        argument: its only one.
        words: what that is.
    """
    try:
        return called(argument)
    except Exception as error:
        raise _failed(f"{option} {name}: calling it with {words}", error) from error


def told(error: Exception) -> str:
    """An exception of a user's code in a line: what it is, and where in that code."""
    where = _where(error)
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}, line {error.lineno})"
        error = SyntaxError(error.msg)
    words = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if words else ''}{words}{where}"


def _where(error: Exception) -> str:
    """The last line of the user's own on the way to what was raised, or else of what that uses;
    empty if not even a call succeeded."""
    ours = __name__.partition(".")[0]
    passed = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] != ours
    ]
    own = [(path, line) for path, line in passed if not _is_of_a_library(path)]
    for path, line in reversed(own or passed):
        return f" ({path}, line {line})"
    return ""


def _is_of_a_library(path: Path) -> bool:
    installed = {"site-packages", "dist-packages"}.intersection(path.parts)
    return bool(installed) or path.is_relative_to(sysconfig.get_path("stdlib"))


def _failed(what: str, error: Exception) -> UsageError:
    return UsageError(f"{what} failed: {told(error)}")

"""Numba's cache on the disk, without which loops work as well: they are compiled anew."""

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("compsgd")

_is_told = False


def forgive_cache(compiled: Any) -> None:
    """Where the cache of a compiled function cannot be read or written after all, as on a full
    disk, it is a line in the log.

    Args:
        compiled: what numba.njit has returned, with cache=True.
    """
    # Not documented: where it is gone, errors are as Numba has them.
    cache = getattr(compiled, "_cache", None)
    for name in ("save_overload", "load_overload"):
        action = getattr(cache, name, None)
        if action is not None:
            setattr(cache, name, _forgiven(action))


def _forgiven(action: Callable[..., Any]) -> Callable[..., Any]:
    def act(*args: Any) -> Any:
        try:
            return action(*args)
        except Exception as error:  # what is cut short or altered may raise anything
            tell_no_cache(error)
            return None

    return act


def tell_no_cache(error: Exception) -> None:
    """Says once in a process that there is no cache."""
    global _is_told
    if not _is_told:
        _is_told = True
        log.warning(
            "Numba's cache on the disk does not work here (%s): going on without it, seconds later "
            "and with the same results",
            (str(error) or type(error).__name__).splitlines()[0],
        )

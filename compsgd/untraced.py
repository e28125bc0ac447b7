"""Methods that torch.compile leaves as they are, wherever it meets them.

What they call are compiled kernels already, collectives and files; tracing into those ends in an
error at worst, and in a compilation for every round at best.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

_Method = TypeVar("_Method", bound=Callable[..., Any])

_prepare: list[Callable[[], None]] = []


def untraced(method: _Method) -> _Method:
    """Decorates such a method; it takes effect with `prepare_untraced`."""
    found: list[Callable[..., Any]] = []

    def prepare() -> None:
        if not found:
            found.append(torch.compiler.disable(method))

    _prepare.append(prepare)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (found[0] if found else method)(*args, **kwargs)

    return cast(_Method, call)


def prepare_untraced() -> None:
    """To be called before anything can trace them. It imports what takes seconds, and what torch's
    own optimizers import too when one is made."""
    for one in _prepare:
        one()

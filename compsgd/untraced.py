"""Methods that torch.compile leaves as they are, wherever it meets them.

What they call are compiled kernels already, collectives and files; tracing into those ends in an
error at worst, and in a compilation for every round at best. While nobody has imported
`torch._dynamo` nothing can be traced, and it stays out: it takes a second.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch._compile import _disable_dynamo

# Once that is imported there may be something to trace.
_TRACER = "torch._dynamo"
_Method = TypeVar("_Method", bound=Callable[..., Any])


def untraced(method: _Method) -> _Method:
    """Decorates such a method."""
    # Not torch.compiler.disable, which imports torch._dynamo here and now.
    disabled: Callable[..., Any] = _disable_dynamo(method)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (disabled if _TRACER in sys.modules else method)(*args, **kwargs)

    return cast(_Method, call)


def inherited(method: _Method) -> _Method:
    """A bound method of torch's that is decorated so, without the decoration where nothing can be
    traced: at its first call torch would import torch._dynamo."""
    plain = getattr(method, "__wrapped__", None)
    if plain is None or _TRACER in sys.modules:
        return method
    return cast(_Method, functools.partial(plain, cast(Any, method).__self__))

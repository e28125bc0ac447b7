"""Imports matplotlib whatever backend for windows an environment asks for: figures here need none.

Jupyter and IDEs set MPLBACKEND for all that they start, even where that backend is not installed;
matplotlib then fails when it is imported.
"""

import contextlib
import os
import sys

_VARIABLE = "MPLBACKEND"


def _import_matplotlib() -> None:
    backend = os.environ.pop(_VARIABLE, None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ[_VARIABLE] = backend
    if backend:
        # For pyplot, if somebody uses it beside us.
        with contextlib.suppress(ValueError, ImportError):
            matplotlib.rcParams["backend"] = backend


if "matplotlib" not in sys.modules:
    _import_matplotlib()

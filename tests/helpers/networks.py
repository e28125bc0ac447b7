"""Networks of namespaces on this machine, where there can be any."""

import sys

import pytest
from processes import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

from netlab import INTERFACE, LabError, Link, network

__all__ = ["INTERFACE", "NETLAB", "Link", "needs_network", "network"]

NETLAB = [sys.executable, str(ROOT / "scripts" / "bench" / "netlab.py")]


def _why_none():
    try:
        with network(1, Link("1gbit")):
            return ""
    except LabError as error:
        return str(error)


# Root of a container may not make any either, so that one is tried.
_REASON = _why_none()
needs_network = pytest.mark.skipif(bool(_REASON), reason=f"no network namespaces here: {_REASON}")

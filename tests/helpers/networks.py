"""Networks of namespaces on this machine, where there can be any."""

import os
import shutil
import sys

import pytest
from processes import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

from netlab import INTERFACE, Link, network

__all__ = ["INTERFACE", "NETLAB", "Link", "needs_network", "network"]

NETLAB = [sys.executable, str(ROOT / "scripts" / "bench" / "netlab.py")]
_CAN = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("ip") and shutil.which("tc")
needs_network = pytest.mark.skipif(not _CAN, reason="it needs Linux, root, and iproute2")

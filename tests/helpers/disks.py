"""File systems of a few bytes, to be full."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size, as mount writes it, in a folder of its own below; skips the test
    where none can be mounted."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount).returncode:
        pytest.skip("mounting a small file system takes Linux, and root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)

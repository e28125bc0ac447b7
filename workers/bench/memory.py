"""How much memory an action takes at its peak, as the operating system counts it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def peak_extra_bytes(action: Callable[[], Any]) -> int | None:
    """Resident bytes at the peak of an action beyond those before it; None where the system does
    not tell (it does on Linux)."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
        before = _read("VmRSS")
        action()
        return _read("VmHWM") - before
    except (OSError, LookupError):
        return None


def _read(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)

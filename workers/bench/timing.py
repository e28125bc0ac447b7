"""Times as ratios to one float32 copy measured beside them: ratios are what lasts."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from compsgd.workers.results.digests import versions


class Timing(NamedTuple):
    """The median time of an action, and the median of its ratios to a copy made just before."""

    seconds: float
    copies: float


def time_beside_copies(action: Callable[[], Any], numel: int, repeats: int) -> Timing:
    """Times an action and one float32 copy of `numel` elements in turns, so that what else the
    machine does meets both. One call of each goes first and is not counted."""
    source, target = torch.ones(numel), torch.empty(numel)
    pairs = [
        (_seconds(lambda: target.copy_(source)), _seconds(action)) for _ in range(repeats + 1)
    ][1:]
    return Timing(
        statistics.median(seconds for _, seconds in pairs),
        statistics.median(seconds / copy for copy, seconds in pairs),
    )


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **versions(),
    }


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

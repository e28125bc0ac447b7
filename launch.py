"""Trains with real processes, started by torchrun or, without it, by this script itself.

torchrun --nproc_per_node 4 launch.py OPTIONS
python launch.py --num_workers 4 OPTIONS
"""

from collections.abc import Callable
from functools import partial

from compsgd.startup import announce_loading, run_command


def load() -> Callable[[], object]:
    announce_loading()
    from compsgd.workers.commands.cli import launch
    from compsgd.workers.commands.execution import execute

    return partial(execute, launch, "launch.py")


if __name__ == "__main__":
    run_command(load)

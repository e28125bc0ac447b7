"""Trains with real processes, started by torchrun or, without it, by this script itself.

torchrun --nproc_per_node 4 launch.py OPTIONS
python launch.py --num_workers 4 OPTIONS
"""

import signal

# Importing takes seconds: Ctrl-C is to end it then too, but not by a traceback out of torch.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from compsgd.workers.commands.cli import execute, launch  # noqa: E402

signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    execute(launch, "launch.py")

"""Trains with real processes, started by torchrun or, without it, by this script itself.

torchrun --nproc_per_node 4 launch.py OPTIONS
python launch.py --num_workers 4 OPTIONS
"""

from compsgd.workers.cli import execute, launch

if __name__ == "__main__":
    execute(launch, "launch.py")

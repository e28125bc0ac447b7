"""Started by torchrun, one process a worker: torchrun --nproc_per_node 4 launch.py OPTIONS"""

from compsgd.workers.cli import execute, train

if __name__ == "__main__":
    execute(train, "launch.py")

"""`python -m compsgd` is the command `compsgd`."""

from compsgd.workers.commands.cli import main

if __name__ == "__main__":
    main()

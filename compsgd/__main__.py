"""`python -m compsgd` is the command `compsgd`, and this is where both begin."""

from collections.abc import Callable

from compsgd.startup import run_command


def main() -> None:
    """The `compsgd` command."""
    run_command(_load)


def _load() -> Callable[[], object]:
    from compsgd.workers.commands.group import main as command

    return command


if __name__ == "__main__":
    main()

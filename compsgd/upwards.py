"""The one place where the mathematics looks up to `compsgd.comm`: when somebody asks for it.

Nothing here is imported before: `import compsgd` does not import torch.distributed's users.
"""

from typing import Any

from compsgd.settings import VoteSettings
from compsgd.voting.exchange import Exchange

# Names of the package that live above it.
_ABOVE = ("comm", "VoteAggregator")


def exchange_over(
    process_group: Any, name: str, num_workers: int, settings: VoteSettings
) -> Exchange:
    """The exchange of that name between the processes of a group; None for the default one."""
    from compsgd.comm.exchange_choice import exchange_between

    return exchange_between(
        process_group, name, num_workers, settings.timeout_s, settings.entropy_coding
    )


def attribute(name: str) -> Any:
    """`compsgd.comm` and `compsgd.VoteAggregator`, imported when they are first asked for.

    Raises:
        AttributeError: there is no such attribute.
    """
    if name not in _ABOVE:
        raise AttributeError(f"module 'compsgd' has no attribute {name!r}")
    import compsgd.comm

    return compsgd.comm if name == "comm" else getattr(compsgd.comm, name)

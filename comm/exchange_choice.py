"""Which exchange: by name, and between whom."""

from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from compsgd.checks import check_choice
from compsgd.comm.exchanges import AllGatherExchange, ScatterReduceExchange
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.hierarchical_exchange import between_hosts
from compsgd.comm.traffic.ledger import Ledger, Purpose
from compsgd.errors import SettingError
from compsgd.voting.exchange import Exchange

KINDS: dict[str, Callable[..., Exchange]] = {
    "all_gather": AllGatherExchange,
    "scatter_reduce": ScatterReduceExchange,
    "hierarchical": between_hosts,
}
EXCHANGES = ("auto", *KINDS)


def check_exchange(name: str) -> str:
    """Returns a name that is in EXCHANGES, or raises SettingError."""
    return check_choice("exchange", name, ("auto", *KINDS))


def build_exchange(
    name: str,
    collectives: Collectives,
    bookkeeping: Collectives | None = None,
    entropy_coding: str = "off",
) -> Exchange:
    """The exchange of a name.

    "auto" takes the one with which so many workers send less to vote: all_gather up to N = 2,
    where both send one ballot, and scatter_reduce above. (The sums of compressed_sgd take more
    bits than a vote: at 1 bit they tip the scales for N = 3 and 4.)

    Source:
        design, section 3, "Exchanges".

    Args:
        name: one of EXCHANGES.
        collectives: between whom.
        bookkeeping: between the same, for what is no gradient; the same group without.
        entropy_coding: whether packed codes go through an entropy coder; as in VoteSettings.

    Raises:
        SettingError: there is no such exchange.

    Examples:
        >>> from compsgd.comm import Collectives, Ledger, Purpose, build_exchange
        >>> collectives = Collectives(Ledger(), Purpose.GRADIENT, num_workers=4)
        >>> type(build_exchange("auto", collectives)).__name__
        'ScatterReduceExchange'
    """
    check_exchange(name)
    if name == "auto":
        name = chosen_by_auto(collectives.num_workers)
    return KINDS[name](collectives, bookkeeping, entropy_coding=entropy_coding)


def chosen_by_auto(num_workers: int) -> str:
    """What "auto" stands for with so many workers."""
    return "all_gather" if num_workers <= 2 else "scatter_reduce"


def exchange_between(
    process_group: dist.ProcessGroup | None,
    name: str,
    num_workers: int,
    timeout_s: float,
    entropy_coding: str,
) -> Exchange:
    """An exchange over the processes of a group, with a ledger of its own.

    Args:
        process_group: None for all processes.
        name: one of EXCHANGES.
        num_workers: N; 1 for one a process.
        timeout_s: how long a collective may take.
        entropy_coding: as above.

    Raises:
        SettingError: torch.distributed is not initialised, this process is no member, or there is
            no such exchange.
    """
    group = joined_group(process_group)
    if num_workers == 1:
        num_workers = group.size()
    timeout = timedelta(seconds=timeout_s)
    gradient = Collectives(Ledger.short(), Purpose.GRADIENT, num_workers, group, timeout)
    return build_exchange(name, gradient, entropy_coding=entropy_coding)


def joined_group(process_group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """The group itself, or all processes, if this process is a member.

    Raises:
        SettingError: it is not, or torch.distributed is not initialised.
    """
    if not dist.is_initialized():
        raise SettingError("torch.distributed is not initialised: call init_process_group first")
    group = process_group or dist.group.WORLD
    if not isinstance(group, dist.ProcessGroup):
        raise SettingError(
            f"process_group is {group!r}; it must be a group that this process is a member of"
        )
    return group

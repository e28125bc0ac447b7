"""Processes that must be alike, checked: what differs is named, with the ranks it differs on."""

from collections.abc import Mapping, Sequence

from compsgd.comm.group.collectives import Collectives
from compsgd.comm.group.messages import gather_messages
from compsgd.errors import PeerError
from compsgd.kinds import TEXT, MappingOf


def check_agreement(collectives: Collectives, facts: Mapping[str, str]) -> None:
    """Compares facts between all processes.

    Args:
        collectives: between whom.
        facts: by name; a digest will do for what is long.

    Raises:
        PeerError: on every process alike; it names the first fact that differs, and for each
            value the ranks that have it.
    """
    everyones = gather_messages(collectives, dict(facts), MappingOf(TEXT, TEXT))
    names = dict.fromkeys(name for theirs in everyones for name in theirs)
    for name in names:
        values = [theirs.get(name, "nothing") for theirs in everyones]
        if len(set(values)) > 1:
            raise PeerError(f"the processes disagree on {name}: {_by_value(values)}")


def _by_value(values: Sequence[str]) -> str:
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    return "; ".join(
        f"{value} on rank{'s' if len(those) > 1 else ''} {', '.join(those)}"
        for value, those in ranks.items()
    )

"""What processes must have alike: checked, and what differs is named with its ranks; or made so, as
what each has measured."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

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


def slowest(share: Callable[[Tensor], Tensor], seconds: Sequence[float]) -> list[float]:
    """The longest of every process's measurements, one by one; the same on all.

    Args:
        share: brings bytes, uint8, of every process to all, by rank.
        seconds: of this process.
    """
    mine = torch.tensor(seconds, dtype=torch.float64).view(torch.uint8)
    everyones = share(mine).cpu().contiguous().view(torch.float64)
    longest: list[float] = everyones.amax(0).tolist()
    return longest


def _by_value(values: Sequence[str]) -> str:
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    return "; ".join(
        f"{value} on rank{'s' if len(those) > 1 else ''} {', '.join(those)}"
        for value, those in ranks.items()
    )

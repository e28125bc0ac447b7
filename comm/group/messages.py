"""Small messages between processes, as JSON: unlike a pickle, reading one runs nothing."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from compsgd.comm.group.collectives import Collectives
from compsgd.errors import DamagedDataError, PeerError
from compsgd.internal_errors import ElsewhereError
from compsgd.kinds import TEXT, Exactly, Kind, MisfitError, Optional, Row
from compsgd.strict_json import MAX_SIZE_BYTES, parse_json

Result = TypeVar("Result")

NOTHING = Exactly(None)
# Why an action failed: the class of its error, and the message.
_FAILURE = Optional(Row([TEXT, TEXT]))


def gather_messages(collectives: Collectives, message: Any, kind: Kind) -> list[Any]:
    """Every process's message, by rank.

    1. All-gather of the sizes. 2. All-gather of the texts, padded to the longest. 3. Each is
    checked.

    Args:
        collectives: between whom.
        message: this process's; JSON.
        kind: what a message must be.

    Raises:
        PeerError: one is something else; the message names its rank.
    """
    text = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
    sizes = collectives.all_gather(torch.tensor(text.numel())).tolist()
    for rank, size in enumerate(sizes):
        if not 0 < size <= MAX_SIZE_BYTES:
            raise _unexpected(rank, f"a message of {size} bytes")
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: text.numel()] = text
    texts = collectives.all_gather(padded)
    return [
        _read(rank, row[:size], kind)
        for rank, (row, size) in enumerate(zip(texts, sizes, strict=True))
    ]


def _read(rank: int, text: Tensor, kind: Kind) -> Any:
    try:
        message = parse_json(text.numpy().tobytes())
        kind.check("", message)
    except (DamagedDataError, MisfitError) as error:
        raise _unexpected(rank, f"a message that cannot be: {error}") from error
    return message


def _unexpected(rank: int, what: str) -> PeerError:
    return PeerError(f"rank {rank} sends {what}; it is damaged, or runs something else")


def all_succeed(
    collectives: Collectives,
    action: Callable[[], Result],
    failures: tuple[type[Exception], ...],
) -> Result:
    """Runs `action` here while every other process runs its own, and fails on all if on one.

    Args:
        collectives: who waits for whom.
        action: this process's part.
        failures: the exceptions that are told to the others; any other one is raised at once.

    Raises:
        ElsewhereError: on processes that succeeded, with the class name and the message of the
            first failure. The process that failed raises its own exception.
    """
    failure: Exception | None = None
    try:
        result = action()
    except failures as error:
        failure = error
    told = None if failure is None else [type(failure).__name__, str(failure)]
    reports = gather_messages(collectives, told, _FAILURE)
    if failure is not None:
        raise failure
    for report in reports:
        if report is not None:
            raise ElsewhereError(*report)
    return result


def on_rank_0(
    collectives: Collectives,
    action: Callable[[], Any],
    failures: tuple[type[Exception], ...],
    kind: Kind = NOTHING,
) -> Any:
    """What `action` returns on rank 0, in JSON and of a kind, on every process; only rank 0 runs
    it.

    Raises:
        ElsewhereError: as all_succeed, on all others if it fails.
        PeerError: as gather_messages.
    """
    is_mine = collectives.rank == 0
    mine = all_succeed(collectives, lambda: action() if is_mine else None, failures)
    return gather_messages(collectives, mine, Optional(kind))[0]

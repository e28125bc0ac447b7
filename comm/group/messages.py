"""Small messages between processes, as JSON: unlike a pickle, reading one runs nothing."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from compsgd.comm.group.collectives import Collectives
from compsgd.errors import DamagedDataError, PeerError

Result = TypeVar("Result")

_MAX_SIZE_BYTES = 1 << 26


def gather_messages(collectives: Collectives, message: Any) -> list[Any]:
    """Every process's message, by rank.

    1. All-gather of the sizes. 2. All-gather of the texts, padded to the longest.
    """
    text = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
    sizes = collectives.all_gather(torch.tensor(text.numel())).tolist()
    if not all(0 < size <= _MAX_SIZE_BYTES for size in sizes):
        raise DamagedDataError(f"messages of {sizes} bytes were announced; one of them is damaged")
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: text.numel()] = text
    texts = collectives.all_gather(padded)
    return [_decode(row[:size]) for row, size in zip(texts, sizes, strict=True)]


def unexpected_message() -> PeerError:
    return PeerError("another process says what nobody asked for: it does something else")


def _kind_and_message(report: Any) -> tuple[str, str]:
    if isinstance(report, list) and len(report) == 2 and all(isinstance(x, str) for x in report):
        return report[0], report[1]
    raise unexpected_message()


def _decode(text: Tensor) -> Any:
    try:
        return json.loads(text.numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise DamagedDataError(f"a message of another process is damaged: {error}") from error


class ElsewhereError(Exception):
    """Another process failed; its own message says why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


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
    reports = gather_messages(collectives, told)
    if failure is not None:
        raise failure
    for report in reports:
        if report is not None:
            raise ElsewhereError(*_kind_and_message(report))
    return result


def on_rank_0(
    collectives: Collectives, action: Callable[[], Any], failures: tuple[type[Exception], ...]
) -> Any:
    """What `action` returns on rank 0, in JSON, on every process; only rank 0 runs it.

    Raises:
        ElsewhereError: as all_succeed, on all others if it fails.
    """
    is_mine = collectives.rank == 0
    mine = all_succeed(collectives, lambda: action() if is_mine else None, failures)
    return gather_messages(collectives, mine)[0]

"""How fast a worker computes and sends: measured, saved and read again."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from compsgd.errors import DamagedDataError
from compsgd.files import atomic_write
from compsgd.strict_json import read_json
from compsgd.workers.failures import UsageError


@dataclass(frozen=True)
class VoteSpeed:
    """Seconds an element of a vote takes on one worker.

    Attributes:
        encode_s: a gradient to a packed ballot.
        count_s: one ballot, where it is counted.
        decode_s: the result to a gradient.
    """

    encode_s: float
    count_s: float
    decode_s: float


@dataclass(frozen=True)
class Machine:
    """Seconds by element, byte or message on one worker.

    Attributes:
        votes: by num_bits.
        copy_s: an element of float32, to another place.
        cast_s: an element, to 16 bits and back.
        socket_s: a byte that is sent while one is received.
        all_reduce_s: the same in an all-reduce of float32, which adds up.
        all_reduce_16_s: the same of 16 bits.
        message_s: a message, however short.
    """

    votes: dict[int, VoteSpeed]
    copy_s: float
    cast_s: float
    socket_s: float
    all_reduce_s: float
    all_reduce_16_s: float
    message_s: float

    def slowed(self, factor: float) -> "Machine":
        """One whose workers share what this one has alone."""
        votes = {
            num_bits: VoteSpeed(*(seconds * factor for seconds in vars(one).values()))
            for num_bits, one in self.votes.items()
        }
        changed = {name: getattr(self, name) * factor for name in _NUMBERS}
        return replace(self, votes=votes, **changed)

    def save(self, path: Path) -> None:
        """
        Raises:
            OSError: it cannot be written.
        """
        with atomic_write(path) as file:
            file.write((json.dumps(asdict(self), indent=2) + "\n").encode())


# One core of a server's CPU of 2023 (docs/predictions.md has the command).
USUAL = Machine(
    votes={bits: VoteSpeed(1.4e-9, 0.3e-9, 0.4e-9) for bits in range(1, 9)},
    copy_s=0.3e-9,
    cast_s=0.5e-9,
    socket_s=0.6e-9,
    all_reduce_s=0.8e-9,
    all_reduce_16_s=1.6e-9,
    message_s=30e-6,
)

_NUMBERS = tuple(one.name for one in fields(Machine) if one.name != "votes")


def read_machine(path: Path) -> Machine:
    """What `Machine.save` has written.

    Raises:
        UsageError: a file of something else, or none.
    """
    try:
        found: Any = dict(read_json(path))
        votes = {int(bits): VoteSpeed(**_speeds(one)) for bits, one in found.pop("votes").items()}
        return Machine(votes, **_speeds(found))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except DamagedDataError as error:
        raise UsageError(str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{path} is not what `compsgd predict --calibrate --machine` writes: {error}"
        ) from error


def _speeds(found: dict[str, Any]) -> dict[str, float]:
    for name, value in found.items():
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} is {value!r}")
    return found

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
        shrink_s, grow_s: packed codes through the entropy coder, and back; 0 where there is none.
    """

    encode_s: float
    count_s: float
    decode_s: float
    shrink_s: float = 0.0
    grow_s: float = 0.0


@dataclass(frozen=True)
class Machine:
    """Seconds by element, byte or message on one worker.

    Attributes:
        votes: by num_bits.
        copy_s: an element of float32, to another place.
        cast_s: an element, to 16 bits and back.
        socket_s: computing, a byte that is sent while one is received.
        all_reduce_s: the same in an all-reduce of float32, which adds up.
        all_reduce_16_s: the same of 16 bits.
        message_s: until a message is there, however short.
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
            file.write((json.dumps(self.as_dict(), indent=2) + "\n").encode())

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def _usual_vote(count_s: float, shrink_s: float, grow_s: float) -> VoteSpeed:
    return VoteSpeed(2.8e-9, count_s, 1.25e-9, shrink_s, grow_s)


# One core of a server's CPU of 2023, on vectors that no cache holds: what `compsgd predict
# --calibrate --num_parameters 11700000` finds there.
USUAL = Machine(
    votes={
        1: _usual_vote(0.04e-9, 0.0, 0.0),
        2: _usual_vote(0.08e-9, 2.04e-9, 1.31e-9),
        3: _usual_vote(0.13e-9, 2.25e-9, 1.45e-9),
        4: _usual_vote(0.18e-9, 3.20e-9, 1.66e-9),
        5: _usual_vote(0.22e-9, 2.72e-9, 2.86e-9),
        6: _usual_vote(0.22e-9, 3.13e-9, 3.02e-9),
        7: _usual_vote(0.24e-9, 3.22e-9, 3.23e-9),
        8: _usual_vote(0.27e-9, 3.78e-9, 3.19e-9),
    },
    copy_s=0.61e-9,
    cast_s=0.90e-9,
    socket_s=0.81e-9,
    all_reduce_s=1.12e-9,
    all_reduce_16_s=1.68e-9,
    message_s=110e-6,
)

_NUMBERS = tuple(one.name for one in fields(Machine) if one.name != "votes")


def read_machine(path: Path) -> Machine:
    """What `Machine.save` has written.

    Raises:
        UsageError: a file of something else, or none.
    """
    try:
        return machine_from(read_json(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except DamagedDataError as error:
        raise UsageError(str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{path} is not what `compsgd predict --calibrate --machine` writes: {error}"
        ) from error


def machine_from(found: Any) -> Machine:
    """The inverse of `as_dict`.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is nothing of that kind.
    """
    speeds = dict(found)
    votes = {int(bits): VoteSpeed(**_speeds(one)) for bits, one in speeds.pop("votes").items()}
    return Machine(votes, **_speeds(speeds))


def _speeds(found: dict[str, Any]) -> dict[str, float]:
    for name, value in found.items():
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} is {value!r}")
    return found

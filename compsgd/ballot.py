"""The header in front of a worker's codes: who votes, in which round, on which parameters.

24 bytes and a bit for each parameter tensor, in whole 32-bit words, so that codes behind it can be
read as such (design, section 3 allows 64 bytes and those bits).
A header that does not belong to this round, this worker or these settings is an error: codes
that were packed otherwise would unpack to a wrong gradient without a sign.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compsgd.errors import CompsgdError

_MAGIC = b"csgd"
_VERSION = 1
_FIELDS = struct.Struct("<4sBBBBIIii")


@dataclass(frozen=True)
class BallotHeader:
    """What a worker says about its ballot.

    Attributes:
        worker, round: whose ballot it is, and of which round.
        symbol_bits: num_bits of its codes; 32 for a float32 gradient.
        zeros: whether its alphabet keeps zero.
        present: for each parameter tensor, whether the worker has a gradient for it.
        non_finite: index of the first parameter with a gradient that is not finite; the worker
            then sits out and `present` is false everywhere.
    """

    worker: int
    round: int
    symbol_bits: int
    zeros: bool
    present: Sequence[bool]
    non_finite: int | None = None

    @property
    def takes_part(self) -> bool:
        return any(self.present)

    def to_bytes(self) -> bytes:
        culprit = -1 if self.non_finite is None else self.non_finite
        fields = _FIELDS.pack(
            _MAGIC,
            _VERSION,
            self.symbol_bits,
            self.zeros,
            0,
            self.worker,
            self.round,
            len(self.present),
            culprit,
        )
        return fields + _bits_to_bytes(self.present)

    @classmethod
    def from_bytes(cls, data: bytes) -> "BallotHeader":
        """Raises CompsgdError for bytes that `to_bytes` could not have written."""
        if len(data) < _FIELDS.size:
            raise CompsgdError(f"a ballot header of {len(data)} bytes is too short")
        magic, version, symbol_bits, zeros, spare, worker, round_, num_parameters, culprit = (
            _FIELDS.unpack_from(data)
        )
        if (magic, version, spare) != (_MAGIC, _VERSION, 0) or zeros > 1:
            raise CompsgdError(f"a ballot starts with {data[:8].hex()}, which is no ballot header")
        if len(data) != header_num_bytes(max(num_parameters, 0)) or num_parameters < 0:
            raise CompsgdError(
                f"a ballot header of {len(data)} bytes says it is for {num_parameters} parameters"
            )
        if not -1 <= culprit < num_parameters:
            raise CompsgdError(f"a ballot header blames parameter {culprit} of {num_parameters}")
        present = _bytes_to_bits(data[_FIELDS.size :], num_parameters)
        if culprit >= 0 and any(present):
            raise CompsgdError("a ballot header says both non-finite and taking part")
        return cls(
            worker, round_, symbol_bits, bool(zeros), present, None if culprit < 0 else culprit
        )

    def check_matches(self, expected: "BallotHeader") -> None:
        """Raises CompsgdError unless it agrees with what is due in its place; who takes part and
        on what is the voter's own affair."""
        got, due = self._identity(), expected._identity()
        if got != due:
            differing = [
                f"{name} {got[name]} instead of {due[name]}"
                for name in got
                if got[name] != due[name]
            ]
            raise CompsgdError(
                f"a ballot does not belong here: {', '.join(differing)}; all processes must run "
                "the same model and settings"
            )

    def _identity(self) -> dict[str, object]:
        return {
            "worker": self.worker,
            "round": self.round,
            "symbol_bits": self.symbol_bits,
            "zeros": self.zeros,
            "number of parameters": len(self.present),
        }

    def to_tensor(self) -> Tensor:
        """uint8, shape (header_num_bytes,), on the CPU."""
        return torch.frombuffer(bytearray(self.to_bytes()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, data: Tensor) -> "BallotHeader":
        return cls.from_bytes(data.numpy().tobytes())


def header_num_bytes(num_parameters: int) -> int:
    return _FIELDS.size + _num_bit_bytes(num_parameters)


def _bits_to_bytes(bits: Sequence[bool]) -> bytes:
    number = sum(1 << i for i, bit in enumerate(bits) if bit)
    return number.to_bytes(_num_bit_bytes(len(bits)), "little")


def _num_bit_bytes(num_bits: int) -> int:
    return (num_bits + 31) // 32 * 4


def _bytes_to_bits(data: bytes, num_bits: int) -> tuple[bool, ...]:
    number = int.from_bytes(data, "little")
    if number >> num_bits:
        raise CompsgdError("a ballot header ends in padding that is not zero")
    return tuple(bool(number >> i & 1) for i in range(num_bits))

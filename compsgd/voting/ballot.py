"""Ballots: a worker's packed codes, and the header in front of them, which says who votes, in which
round, on which parameters.

A header is 24 bytes and a bit for each parameter tensor, in whole 32-bit words, so that codes
behind it can be read as such (design, section 3 allows 64 bytes and those bits).
A header that does not belong to this round, this worker or these settings is an error: codes
that were packed otherwise would unpack to a wrong gradient without a sign.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from compsgd.codec.wire import RoundFormat
from compsgd.errors import DamagedDataError, PeerError, SettingError
from compsgd.kinds import Kind, TensorOf
from compsgd.layout import FlatLayout, Voters
from compsgd.voting.exchange import Arrival, Exchange

_MAGIC = b"csgd"
_VERSION = 1
_FIELDS = struct.Struct("<4sBBBBIIii")
# What a header has room for.
LARGEST_ROUND = (1 << 32) - 1


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
        non_finite = -1 if self.non_finite is None else self.non_finite
        fields = _FIELDS.pack(
            _MAGIC,
            _VERSION,
            self.symbol_bits,
            self.zeros,
            0,
            self.worker,
            self.round,
            len(self.present),
            non_finite,
        )
        return fields + _bits_to_bytes(self.present)

    @classmethod
    def from_bytes(cls, data: bytes) -> "BallotHeader":
        """Raises DamagedDataError for bytes that `to_bytes` could not have written."""
        if len(data) < _FIELDS.size:
            raise DamagedDataError(f"a ballot header of {len(data)} bytes is too short")
        magic, version, symbol_bits, zeros, spare, worker, round_, num_parameters, non_finite = (
            _FIELDS.unpack_from(data)
        )
        if (magic, version, spare) != (_MAGIC, _VERSION, 0) or zeros > 1:
            raise DamagedDataError(
                f"a ballot starts with {data[:8].hex()}, which is no ballot header"
            )
        if len(data) != header_num_bytes(max(num_parameters, 0)) or num_parameters < 0:
            raise DamagedDataError(
                f"a ballot header of {len(data)} bytes says it is for {num_parameters} parameters"
            )
        if not -1 <= non_finite < num_parameters:
            raise DamagedDataError(
                f"a ballot header names parameter {non_finite} of {num_parameters}"
            )
        present = _bytes_to_bits(data[_FIELDS.size :], num_parameters)
        if non_finite >= 0 and any(present):
            raise DamagedDataError("a ballot header says both non-finite and taking part")
        first = None if non_finite < 0 else non_finite
        return cls(worker, round_, symbol_bits, bool(zeros), present, first)

    def check_matches(self, expected: "BallotHeader") -> None:
        """Raises PeerError unless it agrees with what is due in its place; who takes part and on
        what may be anything."""
        got, due = self._identity(), expected._identity()
        if got != due:
            differing = [
                f"{name} {got[name]} instead of {due[name]}"
                for name in got
                if got[name] != due[name]
            ]
            raise PeerError(
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


def voters_of(headers: Sequence[BallotHeader], layout: FlatLayout) -> list[Voters]:
    """Spans of parameters on which the same workers vote; spans without voters are left out."""
    labels = [
        tuple(header.worker for header in headers if header.present[i])
        for i in range(len(layout.spans))
    ]
    return [Voters(span, workers) for workers, span in layout.labelled_spans(labels) if workers]


@contextmanager
def naming(sender: str) -> Iterator[None]:
    """Errors of what another process has sent say who it was."""
    try:
        yield
    except (DamagedDataError, PeerError) as error:
        raise type(error)(f"{sender}: {error}") from error


class BallotBox:
    """The hosted workers' ballots of the round under way, as they travel: in chunks, of which the
    first has the header in front.

    Attributes:
        layout: of the flat vector.
        rows: by chunk, uint8 of shape (hosted, num_shards, num_bytes): what travels.
        cast: the headers of those who have voted so far, by place among the hosted.
    """

    def __init__(
        self,
        layout: FlatLayout,
        exchange: Exchange,
        formats: Sequence[RoundFormat],
        symbol_bits: int,
        zeros: bool,
        device: torch.device,
    ) -> None:
        """
        Args:
            layout: of the flat vector, whose parameters headers count.
            exchange: carries the ballots.
            formats: by chunk; the header_bytes of the first are at least header_num_bytes.
            symbol_bits, zeros: as in BallotHeader.
            device: where ballots are.
        """
        self.layout = layout
        self._exchange = exchange
        self._formats = formats
        self._symbol_bits = symbol_bits
        self._zeros = zeros
        num_hosted, num_shards = len(exchange.hosted), exchange.num_shards
        self.rows = [
            torch.zeros(
                num_hosted, num_shards, format.ballot.size_bytes(num_shards),
                dtype=torch.uint8, device=device,
            )
            for format in formats
        ]  # fmt: skip
        self.cast: dict[int, BallotHeader] = {}

    def payload(self, slot: int, chunk: int) -> Tensor:
        """Where the codes of a chunk of a hosted worker's ballot are written, uint8 of shape
        (num_shards, num_bytes)."""
        return self.rows[chunk][slot, :, self._formats[chunk].ballot.header_bytes :]

    def header(
        self, worker: int, round_: int, present: Sequence[bool], non_finite: int | None = None
    ) -> BallotHeader:
        """A worker's, for this round."""
        return BallotHeader(worker, round_, self._symbol_bits, self._zeros, present, non_finite)

    def put(self, slot: int, header: BallotHeader) -> None:
        """Puts a header in front of the first chunk of a hosted worker, by place."""
        head = header.to_tensor()
        self.rows[0][slot, :, : head.numel()] = head.to(self.rows[0].device)
        self.cast[slot] = header

    def put_extra(self, slot: int, chunk: int, extra: Tensor) -> None:
        """Puts bytes, uint8, in front of the codes of a chunk, behind any header."""
        end = self._formats[chunk].ballot.header_bytes
        self.rows[chunk][slot, :, end - extra.numel() : end] = extra.to(self.rows[chunk].device)

    def close(self, round_: int) -> None:
        """Hosted workers that have cast none sit out; the next round begins."""
        for slot, worker in enumerate(self._exchange.hosted):
            if slot not in self.cast:
                for rows in self.rows:
                    rows[slot] = 0
                self.put(slot, self.header(worker, round_, self._nobody))
        self.cast.clear()

    def send(self, chunk: int) -> Arrival:
        """Sends a chunk. Returns what waits for this process's shard of everybody's: uint8, shape
        (N, num_bytes)."""
        return self._exchange.distribute(self.rows[chunk], self._formats[chunk])

    def send_again(self, chunk: int, shard: int) -> Arrival:
        """The same once more of the last round, so that this process gets another shard; all others
        get shards as far from their own."""
        offset = shard - self._exchange.shard
        return self._exchange.distribute(self.rows[chunk].roll(-offset, 1), None)

    def headers(
        self, received: Tensor, round_: int, workers: Sequence[int] | None = None
    ) -> list[BallotHeader]:
        """From the first chunk of each ballot.

        Args:
            received: uint8 of shape (workers, num_bytes).
            round_: of all.
            workers: whose; None for all N.

        Raises:
            PeerError: a ballot of another round, worker or model.
            DamagedDataError: what is no ballot.
        """
        headers = []
        heads = received[:, : self._header_bytes].cpu()
        for worker, row in zip(workers or range(len(heads)), heads, strict=True):
            with naming(f"the ballot of worker {worker}"):
                header = BallotHeader.from_tensor(row)
                header.check_matches(self.header(worker, round_, self._nobody))
            headers.append(header)
        return headers

    @property
    def _header_bytes(self) -> int:
        return header_num_bytes(len(self.layout.spans))

    @property
    def _nobody(self) -> list[bool]:
        """No parameter has a gradient."""
        return [False] * len(self.layout.spans)

    def pending(self) -> dict[str, Tensor]:
        """The headers of the ballots cast so far, as "ballot.<worker>"."""
        hosted = self._exchange.hosted
        return {f"ballot.{hosted[slot]}": header.to_tensor() for slot, header in self.cast.items()}

    def pending_kinds(self) -> dict[str, Kind]:
        """What `pending` may hold, by name."""
        kind = TensorOf((self._header_bytes,), [torch.uint8])
        return {f"ballot.{worker}": kind for worker in self._exchange.hosted}

    def restore(self, pending: Mapping[str, Tensor], round_: int) -> None:
        """Takes over what `pending` returned.

        Raises:
            SettingError: of another size, or of a worker who is not hosted here.
            PeerError: a ballot of another round or model.
            DamagedDataError: what is no ballot.
        """
        hosted = list(self._exchange.hosted)
        for name, row in pending.items():
            worker = int(name.rpartition(".")[2])
            if worker not in hosted:
                raise SettingError(
                    f"this state holds a ballot of worker {worker}, which is not hosted here"
                )
            if row.shape != (self._header_bytes,):
                raise SettingError(f"this state's ballot of worker {worker} has another size")
            header = BallotHeader.from_tensor(row.cpu())
            header.check_matches(self.header(worker, round_, header.present))
            self.put(hosted.index(worker), header)


def _bits_to_bytes(bits: Sequence[bool]) -> bytes:
    number = sum(1 << i for i, bit in enumerate(bits) if bit)
    return number.to_bytes(_num_bit_bytes(len(bits)), "little")


def _num_bit_bytes(num_bits: int) -> int:
    return (num_bits + 31) // 32 * 4


def _bytes_to_bits(data: bytes, num_bits: int) -> tuple[bool, ...]:
    number = int.from_bytes(data, "little")
    if number >> num_bits:
        raise DamagedDataError("a ballot header ends in padding that is not zero")
    return tuple(bool(number >> i & 1) for i in range(num_bits))

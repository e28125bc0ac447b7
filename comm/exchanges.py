"""Exchanges of ballots between processes (design, sections 3 and 6).

Worker i lives on process i mod W. The results are bit-identical for either exchange and any W.
Another exchange is another class with these methods, and a line in KINDS.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from compsgd.checks import check_choice
from compsgd.codec.entropy import EntropyCoder
from compsgd.codec.wire import RoundFormat, WireFormat
from compsgd.comm.coded_messages import CodedMessages
from compsgd.comm.group.agreement import check_agreement, slowest
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.traffic.ledger import Logical, Purpose
from compsgd.errors import SettingError
from compsgd.settings import ENTROPY_CODINGS
from compsgd.voting.exchange import Arrival, Exchange

# Enough to be more than latency at 1 Gbit/s, and a tenth of a second at 10 Mbit/s.
_PROBE_BYTES, _PROBES = 1 << 17, 3
# Coding a packed byte and decoding it takes 8 to 10 ns on a core of 2023, and saves a third or so
# of it (docs/measurements/entropy.md).
_CODING_PAYS_S_PER_BYTE = 25e-9
_FEWEST_CODED = 1 << 18


class ProcessExchange:
    """What all exchanges share: who is hosted, and what is said beside the ballots.

    Attributes:
        ledger: the record of bytes.
    """

    outer: Exchange | None = None
    # What this process sends in a round.
    _sent_bytes: Callable[[RoundFormat], int]

    def __init__(
        self,
        collectives: Collectives,
        bookkeeping: Collectives | None = None,
        *,
        entropy_coding: str = "off",
    ) -> None:
        """
        Args:
            collectives: over the processes' group; their num_workers is N.
            bookkeeping: over the same processes, for what is no gradient; the same group without.
            entropy_coding: one of ENTROPY_CODINGS.

        Raises:
            SettingError: num_workers is no multiple of the number of processes, or entropy coding
                is on over NCCL.
        """
        self._collectives = collectives
        self._coded = CodedMessages(collectives)
        self._entropy_coding = _checked_coding(entropy_coding, collectives)
        self._bookkeeping = bookkeeping or collectives.of_purpose(Purpose.BOOKKEEPING)
        self.ledger = collectives.ledger
        self.num_workers = collectives.num_workers
        world_size = collectives.world_size
        if self.num_workers % world_size:
            raise SettingError(
                f"num_workers is {self.num_workers}; it must be a multiple of the "
                f"{world_size} processes"
            )
        self.num_processes = world_size
        self.hosted: Sequence[int] = range(collectives.rank, self.num_workers, world_size)

    def by_shards(self) -> "ScatterReduceExchange":
        """The same processes, with a shard for each, for float32."""
        return ScatterReduceExchange(self._collectives, self._bookkeeping)

    def end_round(self, participants: Sequence[int]) -> None:
        """Closes a step of the ledger."""
        self.ledger.end_round(participants)

    def share(self, mine: Tensor) -> Tensor:
        """One all-gather, entered as bookkeeping."""
        return self._bookkeeping.all_gather(mine)

    def _is_coded(self, format: WireFormat) -> bool:
        """Whether a vector of this format goes through the entropy coder."""
        if self._entropy_coding == "off" or not EntropyCoder.suits(format.alphabet):
            return False
        return self._entropy_coding == "on" or self._coding_pays(format.numel)

    def _coding_pays(self, numel: int) -> bool:
        """Whether a byte takes longer to travel than to be coded, as far as there is less of it."""
        return numel >= _FEWEST_CODED and self._seconds_per_byte > _CODING_PAYS_S_PER_BYTE

    def travel_s(self, format: RoundFormat) -> float:
        """By the bytes, and what one takes on the way from here to all others."""
        return self._sent_bytes(format) * self._seconds_per_byte

    @functools.cached_property
    def _seconds_per_byte(self) -> float:
        """The median of a few all-gathers, entered as bookkeeping; of the slowest process."""
        block = torch.zeros(_PROBE_BYTES, dtype=torch.uint8)
        times = []
        for _ in range(_PROBES):
            self.share(block[:1])
            began = time.perf_counter()
            self.share(block)
            times.append(time.perf_counter() - began)
        (slowest_s,) = slowest(self.share, [statistics.median(times)])
        return slowest_s / max(1, (self.num_processes - 1) * _PROBE_BYTES)

    def compare(self, facts: Mapping[str, str]) -> None:
        """Two all-gathers of a small message, entered as bookkeeping."""
        check_agreement(self._bookkeeping, facts)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProcessExchange":
        """A copied optimizer talks to the same processes."""
        return self

    def __reduce__(self) -> NoReturn:
        raise SettingError(
            "an exchange belongs to its running processes and cannot be pickled; save the "
            "optimizer's state_dict() instead"
        )


class AllGatherExchange(ProcessExchange):
    """Every process receives all ballots whole and counts all elements.

    Sends (N-1) * P a worker, P the packed size of a ballot.

    Source:
        design, section 3.

    Examples:
        >>> from compsgd.comm import AllGatherExchange, Collectives, Ledger, Purpose
        >>> exchange = AllGatherExchange(Collectives(Ledger(), Purpose.GRADIENT, num_workers=4))
        >>> list(exchange.hosted), exchange.num_shards
        ([0, 1, 2, 3], 1)
    """

    num_shards = 1
    shard = 0

    def distribute(self, ballots: Tensor, format: RoundFormat | None) -> Arrival:
        """One all-gather."""
        rows = ballots[:, 0]
        logical = None if format is None else Logical(format.ballot, self.num_workers, 1)
        if logical is not None and self._is_coded(logical.format):
            arrival = self._coded.gather(rows, 1, logical)
        else:
            arrival = self._collectives.start_all_gather(rows, logical)
        return lambda: _by_worker(arrival())

    def collect(self, result: Tensor, format: RoundFormat) -> Arrival:
        """Nothing to do: everybody has counted everything."""
        return lambda: result.unsqueeze(0)

    def _sent_bytes(self, format: RoundFormat) -> int:
        return (self.num_processes - 1) * len(self.hosted) * format.ballot.size_bytes(1)


class ScatterReduceExchange(ProcessExchange):
    """Every process counts one shard of all ballots, and sends the result to all.

    Sends 2 * (N-1)/N * P a worker, P the packed size of a ballot: constant in N. The second phase
    loses nothing, since a vote lies in the alphabet of the ballots.

    Source:
        design, section 3.

    Examples:
        >>> from compsgd.comm import Collectives, Ledger, Purpose, ScatterReduceExchange
        >>> exchange = ScatterReduceExchange(Collectives(Ledger(), Purpose.GRADIENT, num_workers=4))
        >>> exchange.num_shards  # a process alone
        1
    """

    @property
    def num_shards(self) -> int:
        return self._collectives.world_size

    @property
    def shard(self) -> int:
        return self._collectives.rank

    def distribute(self, ballots: Tensor, format: RoundFormat | None) -> Arrival:
        """One all-to-all: rank r receives shard r of every ballot."""
        by_shard = ballots.transpose(0, 1).contiguous()
        logical = None if format is None else Logical(format.ballot, *[self.num_workers] * 2)
        if logical is not None and self._is_coded(logical.format):
            arrival = self._coded.scatter(by_shard, logical)
        else:
            arrival = self._collectives.start_all_to_all(by_shard, logical)
        if self.num_shards == 1 and format is not None and format.result is not None:
            # A process alone has no second phase, but separate workers would.
            unsent = Logical(format.result, *[self.num_workers] * 2)
            self._collectives.record_unsent("all_gather", unsent)
        return lambda: _by_worker(arrival())

    def collect(self, result: Tensor, format: RoundFormat) -> Arrival:
        """One all-gather of the shards' results."""
        assert format.result is not None
        logical = Logical(format.result, *[self.num_workers] * 2)
        if not self._is_coded(logical.format):
            return self._collectives.start_all_gather(result, logical)
        arrival = self._coded.gather(result[None], self.num_shards, logical)
        return lambda: arrival()[:, 0]

    def _sent_bytes(self, format: RoundFormat) -> int:
        assert format.result is not None
        ballots = len(self.hosted) * format.ballot.size_bytes(self.num_shards)
        return (self.num_processes - 1) * (ballots + format.result.size_bytes(self.num_shards))


def _by_worker(gathered: Tensor) -> Tensor:
    """(world_size, k, num_bytes), a worker's place, to (k * world_size, num_bytes)."""
    return gathered.transpose(0, 1).reshape(-1, gathered.shape[-1])


def _checked_coding(name: str, collectives: Collectives) -> str:
    """What is to be done of what is asked for. Over NCCL a message has the length that is
    expected."""
    check_choice("entropy_coding", name, ENTROPY_CODINGS)
    if name == "on" and collectives.is_nccl:
        raise SettingError("entropy_coding is 'on'; it is for gloo, and NCCL carries this group")
    return "off" if collectives.is_nccl or collectives.world_size == 1 else name

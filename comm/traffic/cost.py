"""How many bytes a step costs: the same arithmetic as the wire, before anything is sent."""

from dataclasses import dataclass

from compsgd.codec.alphabet import Alphabet, ballot_alphabet, sum_alphabet
from compsgd.codec.combine import combine_named
from compsgd.codec.wire import WireFormat
from compsgd.layout import shard_numel
from compsgd.voting.ballot import header_num_bytes

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class StepCost:
    """Bytes that one of N workers sends in a step.

    Attributes:
        numel: elements of all parameters.
        num_tensors: parameter tensors, for the ballots' headers.
        num_bits, zeros: of the ballots.
        combine: what comes back, one of `compsgd.codec.combine.COMBINES`.
    """

    numel: int
    num_tensors: int
    num_bits: int
    zeros: bool
    combine: str = "vote"

    def all_gather(self, num_workers: int) -> int:
        """A whole ballot to every other worker."""
        return (num_workers - 1) * self._ballot.size_bytes(num_shards=1)

    def scatter_reduce(self, num_workers: int) -> int:
        """To every other worker its shard of the ballot, and the result of one's own shard."""
        both = (self._ballot, self._result(self.numel, num_workers))
        return (num_workers - 1) * sum(one.size_bytes(num_workers) for one in both)

    def hierarchical(self, num_workers: int, workers_per_host: int) -> tuple[int, int]:
        """The same inside a host, and to each other host a part of the sum of the host's shards,
        and of the result: bytes to others of the host, and to other hosts."""
        num_hosts = num_workers // workers_per_host
        inside = (self._ballot, self._result(self.numel, num_workers))
        numel = shard_numel(self.numel, workers_per_host)
        sums = WireFormat(
            numel,
            sum_alphabet(self._alphabet, workers_per_host),
            workers_per_host * self._ballot.header_bytes,
        )
        between = (sums, self._result(numel, num_workers))
        return (
            (workers_per_host - 1) * sum(one.size_bytes(workers_per_host) for one in inside),
            (num_hosts - 1) * sum(one.size_bytes(num_hosts) for one in between),
        )

    def break_even(self) -> int:
        """The fewest workers with which all_gather sends no less than a float32 all-reduce."""
        num_workers = 2
        while self.all_gather(num_workers) < ring_all_reduce(self.numel, num_workers):
            num_workers += 1
        return num_workers

    @property
    def _alphabet(self) -> Alphabet:
        return ballot_alphabet(self.num_bits, self.zeros)

    @property
    def _ballot(self) -> WireFormat:
        return WireFormat(self.numel, self._alphabet, header_num_bytes(self.num_tensors))

    def _result(self, numel: int, num_workers: int) -> WireFormat:
        return WireFormat(numel, combine_named(self.combine).alphabet(self._alphabet, num_workers))


def ring_all_reduce(numel: int, num_workers: int) -> int:
    """What a worker sends in a ring all-reduce of float32: the compression rate of 1."""
    return 2 * (num_workers - 1) * shard_numel(numel, num_workers) * _FLOAT_BYTES

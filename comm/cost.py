"""How many bytes a step costs: the same arithmetic as the wire, before anything is sent."""

from dataclasses import dataclass

from compsgd.alphabet import Alphabet, ballot_alphabet, sum_alphabet
from compsgd.ballot import header_num_bytes
from compsgd.flat import shard_numel
from compsgd.pieces import shard_size


@dataclass(frozen=True)
class StepCost:
    """Bytes that one of N workers sends in a step.

    Attributes:
        numel: elements of all parameters.
        num_tensors: parameter tensors, for the ballots' headers.
        num_bits, zeros: of the ballots.
        exact_mean: whether sums come back (compressed_sgd) instead of a vote.
    """

    numel: int
    num_tensors: int
    num_bits: int
    zeros: bool
    exact_mean: bool = False

    @property
    def _alphabet(self) -> Alphabet:
        return ballot_alphabet(self.num_bits, self.zeros)

    def all_gather(self, num_workers: int) -> int:
        """A whole ballot to every other worker."""
        ballot = header_num_bytes(self.num_tensors) + shard_size(self.numel, self._alphabet)
        return (num_workers - 1) * ballot

    def scatter_reduce(self, num_workers: int) -> int:
        """To every other worker its shard of the ballot, and the result of one's own shard."""
        numel = shard_numel(self.numel, num_workers)
        ballot = header_num_bytes(self.num_tensors) + shard_size(numel, self._alphabet)
        back = self._alphabet
        if self.exact_mean:
            back = sum_alphabet(self.num_bits, num_workers)
        return (num_workers - 1) * (ballot + shard_size(numel, back))

    def break_even(self) -> int:
        """The fewest workers with which all_gather sends no less than a float32 all-reduce."""
        num_workers = 2
        while self.all_gather(num_workers) < ring_all_reduce(self.numel, num_workers):
            num_workers += 1
        return num_workers


def ring_all_reduce(numel: int, num_workers: int) -> int:
    """What a worker sends in a ring all-reduce of float32: the compression rate of 1."""
    return 2 * (num_workers - 1) * shard_numel(numel, num_workers) * 4

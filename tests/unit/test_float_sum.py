"""Float addition is not associative: the sum is in worker order, whatever the shards."""

import itertools

import pytest
import torch

from compsgd import InProcessExchange
from compsgd.voting.float_sum import FloatSum

CPU = torch.device("cpu")
# In float32 the three orders give three results.
TELLING = [1e8, 1.0, -1e8, 3.0]


def in_worker_order(vectors):
    total = torch.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total


class OneOfSeveral:
    """A process of W that host a worker each: the others' vectors and sums are known."""

    def __init__(self, vectors, shard):
        self.vectors, self.shard = vectors, shard
        self.num_workers = self.num_shards = len(vectors)
        self.hosted = [shard]
        self.formats = []

    def by_shards(self):
        return self

    def distribute(self, shards, format):
        self.formats.append(format)
        size = shards.shape[-1]
        padded = [self.padded(vector, size * self.num_shards) for vector in self.vectors]
        assert torch.equal(shards.flatten(), padded[self.shard])
        mine = torch.stack([one.view(self.num_shards, size)[self.shard] for one in padded])
        return lambda: mine

    def collect(self, result, format):
        num_bytes = result.numel() * self.num_shards
        total = self.padded(in_worker_order(self.vectors), num_bytes)
        rows = total.view(self.num_shards, -1)
        assert torch.equal(rows[self.shard], result)
        return lambda: rows

    @staticmethod
    def padded(vector, num_bytes):
        numel = num_bytes // 4
        padding = vector.new_zeros(numel - vector.numel())
        return torch.cat([vector, padding]).view(torch.uint8)


def test_the_numbers_tell_orders_apart():
    orders = itertools.permutations(torch.tensor(TELLING))
    assert len({in_worker_order([one.view(1) for one in order]).item() for order in orders}) > 1


@pytest.mark.parametrize("order", list(itertools.permutations(TELLING)))
def test_in_one_process(order):
    vectors = [torch.tensor([value, -value, 1.0]) for value in order]
    total = FloatSum(3, InProcessExchange(len(vectors)), CPU)
    for added, vector in enumerate(vectors):
        assert total.num_added == added
        total.add(vector)
    assert torch.equal(total.total(), in_worker_order(vectors))


@pytest.mark.parametrize("numel", [1, 4, 5, 7, 8])
@pytest.mark.parametrize("shard", range(4))
def test_in_shards(numel, shard):
    """The fake exchange compares this process's shard with the same sum."""
    scales = torch.arange(1.0, numel + 1)
    vectors = [value * scales for value in TELLING]
    exchange = OneOfSeveral(vectors, shard)
    total = FloatSum(numel, exchange, CPU)
    total.add(vectors[shard])
    assert total.shard.shape == (-(-numel // 4),)
    assert torch.equal(total.total(), in_worker_order(vectors))


def test_only_the_first_all_to_all_is_what_separate_workers_send():
    exchange = OneOfSeveral([torch.ones(4)] * 2, 0)
    total = FloatSum(4, exchange, CPU)
    for _ in range(3):
        total.add(torch.ones(4))
    assert [format is None for format in exchange.formats] == [False, True, True]
    assert exchange.formats[0].ballot.size_bytes(2) == 8


def test_the_vector_that_is_added_stays_as_it_is():
    vector = torch.ones(2)
    total = FloatSum(2, InProcessExchange(2), CPU)
    total.add(vector)
    total.add(vector)
    assert vector.tolist() == [1, 1]
    assert total.total().tolist() == [2, 2]

"""Rounds of which all that would be sent and all that is moved is kept, to be compared."""

import torch

import compsgd
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.bit_packing import group_for
from compsgd.codec.blocks import BLOCK_COLUMNS


class Spy(compsgd.InProcessExchange):
    """Keeps what would have been sent; cut into shards as if by several processes."""

    def __init__(self, num_workers, num_shards):
        super().__init__(num_workers)
        self.num_shards = num_shards
        self.sent = []

    def distribute(self, ballots, format):
        self.sent.append(ballots.clone())
        return super().distribute(ballots, format)

    def collect(self, result, format):
        self.sent.append(result.clone())
        return lambda: result.expand(self.num_shards, -1)


def numel_for(num_bits, rand_zero, num_shards):
    """Two pieces of blocks and a tail in every shard, whose starts lie across blocks."""
    group = group_for(ballot_alphabet(num_bits, not rand_zero))
    return num_shards * (3 * group.num_elements * BLOCK_COLUMNS + 1234)


def assert_same_rounds(compile, optimizer, num_shards, numel, **settings):
    """Nothing differs from what runs eagerly."""
    eager, other = (
        three_rounds(choice, optimizer, num_shards, numel, count_usages=True, **settings)
        for choice in ("off", compile)
    )
    assert len(eager) == len(other) > 5
    for ours, theirs in zip(other, eager, strict=True):
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))


def three_rounds(compile, optimizer, num_shards, numel, **settings):
    """Three rounds of two workers, one of which has no gradient for the first parameter."""
    generator = torch.Generator().manual_seed(1)
    parameters = [torch.zeros(5000), torch.zeros(numel - 5000)]
    exchange = Spy(2, num_shards)
    one = optimizer(parameters, 0.01, exchange=exchange, compile=compile, **settings)
    for round_ in range(3):
        for worker in range(2):
            for parameter in parameters:
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = gradient * (gradient.abs() > 0.3)
            if (round_, worker) == (1, 1):
                parameters[0].grad = None
            one.compress(worker)
        one.step()
    remembered = [value for parameter in parameters for value in one.state[parameter].values()]
    return [*exchange.sent, *parameters, *one.bin_counts, *remembered]


def empty_range(numel):
    """The (maximum, minimum) of a worker that has seen no gradient."""
    maximum = torch.full((numel,), -float("inf"))
    return maximum, -maximum

"""How far workers agree: the size of the majority among their ballots' signs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compsgd.alphabet import Alphabet
from compsgd.electorate import Electorate, parts_within
from compsgd.flat import Run
from compsgd.packing import unpack_levels
from compsgd.pieces import packed_size
from compsgd.vote import mean


def majority_counts(
    electorates: Sequence[Electorate], payloads: Tensor, alphabet: Alphabet, shard: Run
) -> Tensor:
    """How many elements have a majority of 1, 2, ..., N ballots of one sign.

    Of n ballots with zeros broken a majority has ceil(n / 2) to n. A kept zero is a sign of its
    own. Elements that nobody votes on are left out.

    Args:
        electorates: who votes where.
        payloads: uint8, shape (num_workers, num_bytes): a shard of every worker's ballot.
        alphabet: of the ballots.
        shard: its elements.

    Returns:
        int64, shape (num_workers,).

    Raises:
        CompsgdError: damaged bytes.
    """
    num_workers = len(payloads)
    here = parts_within(electorates, shard)
    by_sign = torch.zeros(3, shard.numel, dtype=torch.int16, device=payloads.device)
    for worker, packed in enumerate(payloads):
        runs = [run.shifted(-shard.start) for run, workers in here if worker in workers]
        if not runs:
            continue
        levels = unpack_levels(packed[: packed_size(shard.numel, alphabet)], shard.numel, alphabet)
        for run in runs:
            cast = levels[run.slice]
            for count, is_of_sign in zip(by_sign, (cast < 0, cast == 0, cast > 0), strict=True):
                count[run.slice] += is_of_sign
    sizes = by_sign.amax(dim=0).to(torch.int64)
    return torch.bincount(sizes, minlength=num_workers + 1)[1:]


def mean_where_voted(electorates: Sequence[Electorate], total: Tensor) -> Tensor:
    """The mean over an element's voters, from a flat float32 sum; 0 where nobody votes."""
    found = torch.zeros_like(total)
    for run, workers in electorates:
        found[run.slice] = mean(total[run.slice], len(workers))
    return found


def cosine(one: Tensor, other: Tensor) -> float:
    """Of the angle between two vectors, summed in float64; NaN if one of them is 0."""
    a, b = one.double(), other.double()
    norms = (a * a).sum().sqrt() * (b * b).sum().sqrt()
    return float((a * b).sum() / norms)

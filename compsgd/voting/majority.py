"""How far workers agree: the size of the majority among their ballots' signs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compsgd.codec.alphabet import Alphabet
from compsgd.codec.blocks import packed_size
from compsgd.codec.combine import mean
from compsgd.codec.packing import unpack_levels
from compsgd.layout import Span, Voters, voters_within


def majority_counts(
    voters: Sequence[Voters], payloads: Tensor, alphabet: Alphabet, shard: Span
) -> Tensor:
    """How many elements have a majority of 1, 2, ..., N ballots of one sign.

    Of n ballots with zeros broken a majority has ceil(n / 2) to n. A kept zero is a sign of its
    own. Elements that nobody votes on are left out.

    Args:
        voters: who votes where.
        payloads: uint8, shape (num_workers, num_bytes): a shard of every worker's ballot.
        alphabet: of the ballots.
        shard: its elements.

    Returns:
        int64, shape (num_workers,).

    Raises:
        DamagedDataError: damaged bytes.
    """
    num_workers = len(payloads)
    here = voters_within(voters, shard)
    by_sign = torch.zeros(3, shard.numel, dtype=torch.int16, device=payloads.device)
    for worker, packed in enumerate(payloads):
        spans = [span.shifted(-shard.start) for span, workers in here if worker in workers]
        if not spans:
            continue
        levels = unpack_levels(packed[: packed_size(shard.numel, alphabet)], shard.numel, alphabet)
        for span in spans:
            cast = levels[span.slice]
            for count, is_of_sign in zip(by_sign, (cast < 0, cast == 0, cast > 0), strict=True):
                count[span.slice] += is_of_sign
    sizes = by_sign.amax(dim=0).to(torch.int64)
    return torch.bincount(sizes, minlength=num_workers + 1)[1:]


def mean_where_voted(voters: Sequence[Voters], total: Tensor) -> Tensor:
    """The mean over an element's voters, from a flat float32 sum; 0 where nobody votes."""
    found = torch.zeros_like(total)
    for span, workers in voters:
        found[span.slice] = mean(total[span.slice], len(workers))
    return found


def cosine(one: Tensor, other: Tensor) -> float:
    """Of the angle between two vectors, summed in float64; NaN if one of them is 0."""
    a, b = one.double(), other.double()
    norms = (a * a).sum().sqrt() * (b * b).sum().sqrt()
    return float((a * b).sum() / norms)

"""Whether all processes still are the same: digests of what each made of a round, to be compared.

Every process applies the update by itself. One that was sent other ballots, or other results, than
the others goes on with other weights, and nothing in a round shows it.
"""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from compsgd.voting.exchange import Exchange
from compsgd.voting.outcome import Outcome

_DIGITS = 16


def is_due(round_: int, check_every: int) -> bool:
    """Whether replicas are compared after this round; the same on every process.

    Args:
        round_: counts from 0, or below.
        check_every: rounds between comparisons; 0 for none.
    """
    return check_every > 0 and (round_ + 1) % check_every == 0


def digest(tensors: Iterable[Tensor]) -> str:
    """Of the bytes of tensors, wherever they are."""
    found = hashlib.sha256()
    for tensor in tensors:
        wire = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        found.update(wire.numpy().data)
    return found.hexdigest()[:_DIGITS]


def digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def facts_of(outcome: Outcome, exchange: Exchange, round_: int) -> dict[str, str]:
    """What every process must have seen alike in a round, by name."""
    outcome.complete()
    facts = {f"what the ballots of round {round_} say": digest_of_text(repr(outcome.headers))}
    if exchange.num_shards == 1:
        facts[f"the ballots of round {round_}"] = digest(outcome.received)
    if outcome.result is not None:
        facts[f"the result of round {round_}"] = digest([outcome.result])
    return facts


def facts_of_model(parameters: Sequence[Tensor]) -> dict[str, str]:
    """What every process must start with, by name."""
    shapes = [(tuple(one.shape), str(one.dtype)) for one in parameters]
    return {
        "the shapes and types of the parameters (a digest)": digest_of_text(repr(shapes)),
        "the values of the parameters (a digest)": digest(parameters),
    }

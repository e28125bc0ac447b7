"""The hot path on rows: gradients to ballots, ballots to an update (design, sections 2 and 9).

Plain torch, without masks, indexing or anything that depends on the data, so that the same source
runs eagerly and through torch.compile. Shapes are those of `compsgd.pieces`: (blocks, rows,
columns), the rows of elements or of bytes of a group.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compsgd.alphabet import (
    Alphabet,
    codes_to_levels,
    levels_to_codes,
    magnitudes_to_codes,
    raised_levels,
)
from compsgd.binning import discretise, discretise_sign, update_range
from compsgd.grouping import group_for, in_all_lanes
from compsgd.randomness import break_zeros, spread_coins
from compsgd.vote import mean, vote


def range_codes(
    out: Tensor,
    gradient: Tensor,
    maximum: Tensor,
    minimum: Tensor,
    decays: Tensor,
    coins: Tensor | None,
    *,
    alphabet: Alphabet,
    num_bits: int,
    binning: str,
) -> Tensor:
    """Updates the range in place and writes the codes of the gradient within it.

    Args:
        out: rows of elements, alphabet.code_dtype, where they are written.
        gradient, maximum, minimum: float32 rows of elements.
        decays: float32, (decay_max, decay_min).
        coins: uint8 (blocks, columns), the signs of levels 0; None where zeros are kept.
        alphabet, num_bits, binning: of the ballot.

    Returns:
        out, as all that write into one.
    """
    update_range(maximum, minimum, gradient, *decays.unbind())
    magnitude, sign = discretise(gradient, maximum, minimum, num_bits, binning)
    return out.copy_(magnitudes_to_codes(magnitude, sign, _bits(coins), alphabet))


def sign_codes(
    out: Tensor, gradient: Tensor, coins: Tensor | None, *, alphabet: Alphabet
) -> Tensor:
    """Writes the codes of the gradient's signs; arguments as those of range_codes."""
    return out.copy_(magnitudes_to_codes(*discretise_sign(gradient), _bits(coins), alphabet))


def pack_codes(out: Tensor, codes: Tensor, *, alphabet: Alphabet) -> Tensor:
    """Packs rows of codes, alphabet.code_dtype, into `out`, uint8 rows of bytes."""
    return out.copy_(group_for(alphabet).encode(codes))


def unpack_codes(out: Tensor, packed: Tensor, *, alphabet: Alphabet) -> Tensor:
    """The inverse of pack_codes."""
    return out.copy_(group_for(alphabet).decode(packed))


def add_ballots(
    raised: Tensor | None, ballots: Sequence[Tensor], weights: Tensor, *, alphabet: Alphabet
) -> Tensor:
    """Adds up level + L, which is never negative, of those who vote.

    Args:
        raised: the sum of ballots that came before, int32 rows of elements.
        ballots: uint8 rows of bytes of each worker.
        weights: int32, shape (len(ballots),): -1 for those who vote and else 0.
        alphabet: of the ballots, L its largest level.

    Returns:
        int32 rows of elements.
    """
    rows = _add_up(ballots, weights, alphabet)
    total = rows[0] if len(rows) == 1 else torch.cat(rows, 1)
    return total if raised is None else raised + total


def tally(
    out: Tensor,
    raised: Tensor | None,
    ballots: Sequence[Tensor],
    weights: Tensor,
    num_voters: Tensor,
    coins: Tensor | None,
    *,
    alphabet: Alphabet,
    is_vote: bool,
    out_alphabet: Alphabet | None,
) -> Tensor:
    """The vote, or the sum of the levels: as codes to send on, or as what a round moves parameters
    by before lr, of a sum its exact mean.

    Args:
        out: rows of elements, out_alphabet.code_dtype or float32, where it is written.
        raised, ballots, weights, alphabet: as in add_ballots.
        num_voters: float32 scalar, how many vote.
        coins: as in range_codes, for ties; None where there is nothing to break.
        is_vote: whether to vote.
        out_alphabet: of the codes; None to move parameters by it.
    """
    raised = add_ballots(raised, ballots, weights, alphabet=alphabet)
    counted = raised - (num_voters * alphabet.largest).to(torch.int32)
    if is_vote:
        counted = vote(counted, num_voters)
        bits = _bits(coins)
        counted = counted if bits is None else break_zeros(counted, bits)
    if out_alphabet is not None:
        return out.copy_(levels_to_codes(counted, out_alphabet))
    return out.copy_(counted if is_vote else mean(counted, num_voters))


def read_tally(
    out: Tensor, packed: Tensor, num_voters: Tensor, *, alphabet: Alphabet, is_vote: bool
) -> Tensor:
    """From codes of a tally, packed, to what `tally` would have moved parameters by; written into
    `out`."""
    counted = codes_to_levels(group_for(alphabet).decode(packed), alphabet)
    return out.copy_(counted if is_vote else mean(counted, num_voters))


def block_magnitudes(out: Tensor, rows: Tensor) -> Tensor:
    """Sums of the magnitudes of rows, float32 (blocks, columns), into `out`, (blocks, 1)."""
    return out.copy_(rows.abs().sum(1, keepdim=True))


def block_level_magnitudes(out: Tensor, codes: Tensor, *, alphabet: Alphabet) -> Tensor:
    """Sums of the magnitudes of levels; rows of their codes, (blocks, columns), into `out`, int32
    (blocks, 1)."""
    return out.copy_(codes_to_levels(codes, alphabet).abs().sum(1, keepdim=True))


def scaled_levels(out: Tensor, codes: Tensor, scale: Tensor, *, alphabet: Alphabet) -> Tensor:
    """Levels times `scale`, a float32 scalar, into `out`, float32; of rows of codes."""
    return out.copy_(codes_to_levels(codes, alphabet).to(torch.float32) * scale)


def invalid_words(ballots: Sequence[Tensor], *, alphabet: Alphabet) -> Tensor:
    """Whether some ballot holds what is no symbol: a scalar, 0 if none does.

    Args:
        ballots: uint8 rows of bytes.
        alphabet: of the ballots.
    """
    group = group_for(alphabet)
    # Each by itself: compiled code that read all of them in one loop would run out of cache ways.
    found = [group.overflow(ballot.view(torch.int32)).amax() for ballot in ballots]
    return torch.stack(found).amax()


def _bits(coins: Tensor | None) -> Tensor | None:
    return None if coins is None else spread_coins(coins)


def _add_up(ballots: Sequence[Tensor], weights: Tensor, alphabet: Alphabet) -> list[Tensor]:
    """Sums of level + largest of those who vote, by digits: int32 (blocks, 8, columns) each."""
    group = group_for(alphabet)
    if group.is_laned:
        return [_add_lanes(ballots, weights.unbind(), alphabet)]
    sums: list[Tensor] = []
    for ballot, weight in zip(ballots, weights.unbind(), strict=True):
        words = group.words(ballot)
        if group.digits == 1:
            quotients = [raised_levels(words, alphabet) & weight]
        else:
            quotients = group.quotients(words.to(torch.int32) & weight)
        sums = [a + b for a, b in zip(sums, quotients, strict=True)] if sums else quotients
    return group.digits_of(sums)


def _add_lanes(ballots: Sequence[Tensor], weights: Sequence[Tensor], alphabet: Alphabet) -> Tensor:
    """The same, four elements at once: each int32 holds four sums of a byte, as many ballots at a
    time as cannot overflow it."""
    at_once = 255 // (2 * alphabet.largest)
    total = None
    for first in range(0, len(ballots), at_once):
        some = slice(first, first + at_once)
        lanes = _lane_sums(ballots[some], weights[some], alphabet)
        part = torch.stack(lanes, 1).view(torch.uint8).to(torch.int32)
        total = part if total is None else total + part
    assert total is not None
    return total


def _lane_sums(
    ballots: Sequence[Tensor], weights: Sequence[Tensor], alphabet: Alphabet
) -> list[Tensor]:
    group = group_for(alphabet)
    sums: list[Tensor] = []
    top_sums: list[Tensor] = []
    top = in_all_lanes(alphabet.largest)
    for ballot, weight in zip(ballots, weights, strict=True):
        codes = group.lanes(ballot.view(torch.int32) & weight)
        # Where zeros are broken, codes of positive levels have the top bit and count one more.
        tops = [code & top for code in codes]
        sums = [a + b for a, b in zip(sums, codes, strict=True)] if sums else codes
        top_sums = [a + b for a, b in zip(top_sums, tops, strict=True)] if top_sums else tops
    if alphabet.zeros:
        return sums
    shift = alphabet.largest.bit_length() - 1
    ones = in_all_lanes(255 >> shift)
    return [a + ((b >> shift) & ones) for a, b in zip(sums, top_sums, strict=True)]

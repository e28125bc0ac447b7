"""The hot path on rows: gradients to ballots, ballots to results (design, sections 2 and 3).

Plain torch, without masks, indexing or anything that depends on the data, so that the same source
runs eagerly and through torch.compile. Most functions here make a kernel for their settings. Shapes
are those of `compsgd.codec.blocks`: (blocks, rows, columns), the rows of elements or of bytes of a
group. A kernel that writes into `out` returns it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compsgd.codec.alphabet import (
    Alphabet,
    codes_to_levels,
    magnitudes_to_codes,
    raised_levels,
)
from compsgd.codec.binning import discretise, discretise_sign, undiscretise, update_range
from compsgd.codec.bit_packing import group_for, in_all_lanes
from compsgd.codec.combine import Combine
from compsgd.rng import spread_bits


def encode(alphabet: Alphabet, binning: str) -> Callable[..., Tensor]:
    """Makes the kernel that writes the codes of a gradient, and remembers what a worker does."""
    num_bits = alphabet.largest.bit_length()

    def encode(
        out: Tensor,
        gradient: Tensor,
        bounds: tuple[Tensor, Tensor] | None,
        momentum: Tensor | None,
        error: Tensor | None,
        rates: Tensor,
        bits: Tensor | None,
    ) -> Tensor:
        """
        Args:
            out: rows of elements, alphabet.code_dtype, where codes are written.
            gradient: float32 rows of elements.
            bounds, momentum, error: those of `compsgd.codec.base.Memory`, in rows, in place.
            rates: float32, (decay_max, decay_min, momentum, 1 - momentum).
            bits: uint8 (blocks, columns), the signs of levels 0; None where zeros are kept.
        """
        decay_max, decay_min, beta, complement = rates.unbind()
        x = gradient
        if momentum is not None:
            # Not add_ with alpha, which rounds once: each product and sum is rounded by itself.
            x = momentum.copy_(momentum * beta + x * complement)
        if error is not None:
            x = x + error
        if bounds is None:
            return out.copy_(magnitudes_to_codes(*discretise_sign(x), _spread(bits), alphabet))
        maximum, minimum = bounds
        update_range(maximum, minimum, x, decay_max, decay_min)
        magnitude, sign = discretise(x, maximum, minimum, num_bits, binning)
        codes = magnitudes_to_codes(magnitude, sign, _spread(bits), alphabet)
        if error is not None:
            levels = codes_to_levels(codes, alphabet)
            error.copy_(x - undiscretise(levels, maximum, minimum, num_bits, binning))
        return out.copy_(codes)

    return encode


def pack_codes(alphabet: Alphabet) -> Callable[[Tensor, Tensor], Tensor]:
    """Makes the kernel that packs codes."""
    group = group_for(alphabet)

    def pack_codes(out: Tensor, codes: Tensor) -> Tensor:
        """Packs rows of codes, alphabet.code_dtype, into `out`, uint8 rows of bytes."""
        return out.copy_(group.encode(codes))

    return pack_codes


def unpack_codes(alphabet: Alphabet) -> Callable[[Tensor, Tensor], Tensor]:
    """Makes the inverse of pack_codes."""
    group = group_for(alphabet)

    def unpack_codes(out: Tensor, packed: Tensor) -> Tensor:
        return out.copy_(group.decode(packed))

    return unpack_codes


def add_ballots(
    alphabet: Alphabet,
) -> Callable[[Tensor | None, Sequence[Tensor], Tensor], Tensor]:
    """Makes the kernel that adds up level + L, which is never negative, of those who vote."""

    def add_ballots(raised: Tensor | None, ballots: Sequence[Tensor], weights: Tensor) -> Tensor:
        """
        Args:
            raised: the sum of ballots that came before, int32 rows of elements.
            ballots: uint8 rows of bytes of each worker.
            weights: int32, shape (len(ballots),): -1 for those who vote and else 0.

        Returns:
            int32 rows of elements.
        """
        return _add_up(raised, ballots, weights, alphabet)

    return add_ballots


def count(
    alphabet: Alphabet, results: Alphabet, combine: Combine
) -> Callable[[Tensor, Tensor | None, Sequence[Tensor], Tensor, Tensor, Tensor | None], Tensor]:
    """Makes the kernel that writes the codes of what ballots combine to."""

    def count(
        out: Tensor,
        raised: Tensor | None,
        ballots: Sequence[Tensor],
        weights: Tensor,
        num_voters: Tensor,
        bits: Tensor | None,
    ) -> Tensor:
        """
        Args:
            out: rows of elements, results.code_dtype, where codes are written.
            raised, ballots, weights: as in add_ballots.
            num_voters: float32 scalar, how many vote.
            bits: as in encode, for ties; None where there is nothing to break.
        """
        raised = _add_up(raised, ballots, weights, alphabet)
        level_sum = raised - (num_voters * alphabet.largest).to(torch.int32)
        result = combine.result(level_sum, num_voters).to(torch.int32)
        return out.copy_(magnitudes_to_codes(result.abs(), result >> 31, _spread(bits), results))

    return count


def block_magnitudes(out: Tensor, rows: Tensor) -> Tensor:
    """Sums of the magnitudes of rows, float32 (blocks, columns), into `out`, (blocks, 1)."""
    return out.copy_(rows.abs().sum(1, keepdim=True))


def block_level_magnitudes(alphabet: Alphabet) -> Callable[[Tensor, Tensor], Tensor]:
    """Makes the kernel that sums magnitudes of levels."""

    def block_level_magnitudes(out: Tensor, codes: Tensor) -> Tensor:
        """Of rows of their codes, (blocks, columns), into `out`, int32 (blocks, 1)."""
        return out.copy_(codes_to_levels(codes, alphabet).abs().sum(1, keepdim=True))

    return block_level_magnitudes


def invalid_words(alphabet: Alphabet) -> Callable[[Sequence[Tensor]], Tensor]:
    """Makes the kernel that finds bytes that no packer writes."""
    group = group_for(alphabet)

    def invalid_words(ballots: Sequence[Tensor]) -> Tensor:
        """Whether some ballot, uint8 rows of bytes, holds what is no symbol: a scalar, 0 if none
        does."""
        # Each by itself: compiled code that read all of them in one loop would run out of cache
        # ways.
        found = [group.overflow(ballot.view(torch.int32)).amax() for ballot in ballots]
        return torch.stack(found).amax()

    return invalid_words


def _spread(bits: Tensor | None) -> Tensor | None:
    return None if bits is None else spread_bits(bits)


def _add_up(
    raised: Tensor | None, ballots: Sequence[Tensor], weights: Tensor, alphabet: Alphabet
) -> Tensor:
    rows = _sums_by_digit(ballots, weights, alphabet)
    total = rows[0] if len(rows) == 1 else torch.cat(rows, 1)
    return total if raised is None else raised + total


def _sums_by_digit(ballots: Sequence[Tensor], weights: Tensor, alphabet: Alphabet) -> list[Tensor]:
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

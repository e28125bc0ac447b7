"""Range and discretisation: a gradient becomes levels (design, section 2, steps 1 and 2).

A binning is a pair of functions: from magnitudes and bounds to shares of the largest level, and
back. Another one is another line in BINNINGS.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from compsgd.codec.alphabet import max_level

_EXP_OFFSET = 1.0001


def update_range(
    maximum: Tensor,
    minimum: Tensor,
    gradient: Tensor,
    decay_max: float | Tensor,
    decay_min: float | Tensor,
) -> None:
    """M = max(g, M * decay_max) and m = min(g, m * decay_min), in place, so that m <= g <= M."""
    maximum.mul_(decay_max).clamp_(min=gradient)
    minimum.mul_(decay_min).clamp_(max=gradient)


def discretise(
    gradient: Tensor, maximum: Tensor, minimum: Tensor, num_bits: int, binning: str
) -> tuple[Tensor, Tensor]:
    """The level of each gradient element within its range, as magnitude and sign.

    Args:
        gradient: finite float32, any shape.
        maximum, minimum: the range, already updated with this gradient; the same shape.
        num_bits: 1 to 8; the largest level is L = 2^(num_bits-1).
        binning: one of BINNINGS.

    Returns:
        int32 in 0..L, which is 0 where the gradient is 0 or its share underflows; and int32, -1
        where the gradient is negative and else 0.
    """
    sign = _sign_mask(gradient)
    bound = _bound(maximum, minimum, sign)
    share = BINNINGS[binning].share(gradient.abs(), bound)
    return (share * max_level(num_bits)).ceil().to(torch.int32), sign


def discretise_sign(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The levels of signSGD, as `discretise` gives them: magnitude 0 or 1, and sign."""
    return gradient.sign().abs().to(torch.int32), _sign_mask(gradient)


def undiscretise(
    levels: Tensor, maximum: Tensor, minimum: Tensor, num_bits: int, binning: str
) -> Tensor:
    """What levels stand for within a range (design, section 2b, b): the upper edge of their bin.

    Args:
        levels: int32 in -L..L, any shape.
        maximum, minimum: the range; the same shape.
        num_bits, binning: as of `discretise`.

    Returns:
        float32, the shape of levels.
    """
    # The largest level is a power of 2, and so this is exact.
    share = levels.to(torch.float32) / max_level(num_bits)
    bound = _bound(maximum, minimum, levels >> 31)
    return BINNINGS[binning].magnitude(share.abs(), bound) * share.sign()


def signed(magnitude: Tensor, sign: Tensor) -> Tensor:
    """The levels themselves; int32."""
    return (magnitude ^ sign) - sign


def _sign_mask(gradient: Tensor) -> Tensor:
    return gradient.view(torch.int32) >> 31


def _bound(maximum: Tensor, minimum: Tensor, sign: Tensor) -> Tensor:
    """|maximum| or, where sign is -1, |minimum|."""
    # By their bits: faster than selecting by a mask, and exact.
    upper, lower = maximum.view(torch.int32), minimum.view(torch.int32)
    return (upper ^ ((upper ^ lower) & sign)).view(torch.float32).abs()


def _lin_share(magnitude: Tensor, bound: Tensor) -> Tensor:
    # A bound of 0 is only ever that of a gradient of 0, whose share is 0 by any other bound too. By
    # a subnormal one, the processor would take ten times as long.
    return magnitude / (bound + (1 - bound.sign()))


def _exp_share(magnitude: Tensor, bound: Tensor) -> Tensor:
    share = (magnitude + _EXP_OFFSET).log() / (bound + _EXP_OFFSET).log()
    # The logarithm of a vector library may rise above its neighbour's: never beyond the alphabet.
    return share.clamp(max=1) * magnitude.sign()


def _lin_magnitude(share: Tensor, bound: Tensor) -> Tensor:
    return share * bound


def _exp_magnitude(share: Tensor, bound: Tensor) -> Tensor:
    return ((share * (bound + _EXP_OFFSET).log()).exp() - _EXP_OFFSET).clamp(min=0)


class Binning(NamedTuple):
    """Bins, there and back: two functions of float32 tensors of one shape, to another. They are
    compiled, so that they take operations of torch alone, without a branch on a value.

    Attributes:
        share: of (|g|, |R|), where |g| is at most |R|: the share of the largest level, in [0, 1], 0
            where g is 0.
        magnitude: of (share, |R|): the magnitude that a share stands for.
        is_exact: whether they round alike compiled and not; logarithms do not.
        has_loop: whether numba_kernels.encode has them, too.
    """

    share: Callable[[Tensor, Tensor], Tensor]
    magnitude: Callable[[Tensor, Tensor], Tensor]
    is_exact: bool = True
    has_loop: bool = False


BINNINGS: dict[str, Binning] = {
    "lin": Binning(_lin_share, _lin_magnitude, has_loop=True),
    "exp": Binning(_exp_share, _exp_magnitude, is_exact=False),
}


def has_loop(binning: str | None) -> bool:
    """Whether Numba can encode by these bins; None stands for signs alone."""
    return binning is None or BINNINGS[binning].has_loop

"""Range and discretisation: a gradient becomes levels (design, section 2, steps 1 and 2)."""

import math

import torch
from torch import Tensor

from compsgd.alphabet import max_level

BINNINGS = ("lin", "exp")

_EXP_OFFSET = 1.0001


def empty_range(numel: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The (maximum, minimum) of a worker that has seen no gradient; float32, shape (numel,) each.

    Infinite bounds need no special first round: whatever the decay, the first gradient is both.
    """
    maximum = torch.full((numel,), -math.inf, device=device)
    return maximum, -maximum


def update_range(
    maximum: Tensor, minimum: Tensor, gradient: Tensor, decay_max: float, decay_min: float
) -> None:
    """M = max(g, M * decay_max) and m = min(g, m * decay_min), in place, so that m <= g <= M."""
    if decay_max != 1:
        maximum.mul_(decay_max)
    if decay_min != 1:
        minimum.mul_(decay_min)
    torch.maximum(maximum, gradient, out=maximum)
    torch.minimum(minimum, gradient, out=minimum)


def discretise(
    gradient: Tensor, maximum: Tensor, minimum: Tensor, num_bits: int, binning: str
) -> Tensor:
    """The level of each gradient element within its range.

    Args:
        gradient: finite float32, shape (numel,).
        maximum, minimum: the range, already updated with this gradient; the same shape.
        num_bits: 1 to 8; the largest level is L = 2^(num_bits-1).
        binning: "lin", ceil(L * g / R), or "exp", the same of log(|.| + 1.0001).

    Returns:
        int16, shape (numel,), in {-L..L}; 0 where the gradient is 0 or its ratio underflows.
    """
    sign = gradient.sign()
    # |R|, by multiplication: one factor is 0, so it is exact, and faster than selecting by a mask.
    bound = (sign.clamp(min=0).mul_(maximum)).addcmul_(sign.clamp(max=0), minimum)
    magnitude = gradient.abs()
    share = _lin_share(magnitude, bound) if binning == "lin" else _exp_share(magnitude, bound)
    largest = max_level(num_bits)
    # The logarithm of a vector library may rise above its neighbour's: never beyond the alphabet.
    level = share.mul_(largest).ceil_().clamp_(max=largest)
    return level.mul_(sign).to(torch.int16)


def _lin_share(magnitude: Tensor, bound: Tensor) -> Tensor:
    # 0 / 0 is the only NaN: the bound of a gradient of 0 is left at 0.
    return magnitude.div_(bound).nan_to_num_(nan=0.0)


def _exp_share(magnitude: Tensor, bound: Tensor) -> Tensor:
    return magnitude.add_(_EXP_OFFSET).log_().div_(bound.add_(_EXP_OFFSET).log_())


def signs(gradient: Tensor) -> Tensor:
    """The levels of signSGD: int16, shape (numel,), in {-1, 0, 1}."""
    return gradient.sign().to(torch.int16)

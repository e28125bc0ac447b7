"""Means of gradients over all processes, in float32."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compsgd.comm.group.collectives import Collectives


def average(gradients: Sequence[Tensor], collectives: Collectives) -> None:
    """Overwrites each by its mean over all processes, as plain DistributedDataParallel does."""
    if gradients:
        flat = _flat(gradients)
        collectives.all_reduce(flat)
        _scatter(flat / collectives.world_size, gradients)


def start_average_of_finite(
    gradients: Sequence[Tensor], collectives: Collectives
) -> Callable[[], None]:
    """As `average`, over those processes whose gradients are all finite; where none has such, over
    all, so that a GradScaler sees it. What is returned waits for its end, and overwrites them."""
    if not gradients:
        return lambda: None
    flat = _flat(gradients)
    is_finite = are_finite([flat])
    if not is_finite:
        flat.zero_()
    summed = torch.cat([flat, flat.new_full((1,), float(is_finite))])
    wait = collectives.start_all_reduce(summed)

    def finish() -> None:
        wait()
        num_finite = float(summed[-1])
        if num_finite:
            _scatter(summed[:-1] / num_finite, gradients)
        else:
            average(gradients, collectives)

    return finish


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all elements are; of at least one tensor. One infinity or NaN makes a sum that is not
    finite, and so, rarely, do large numbers."""
    sums = torch.stack([one.sum(dtype=torch.float32) for one in tensors])
    return bool(sums.isfinite().all()) or all(bool(one.isfinite().all()) for one in tensors)


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten().float() for gradient in gradients])


def _scatter(flat: Tensor, gradients: Sequence[Tensor]) -> None:
    parts = flat.split([gradient.numel() for gradient in gradients])
    shaped = [part.view(one.shape) for one, part in zip(gradients, parts, strict=True)]
    torch._foreach_copy_(list(gradients), shaped)

"""The loss scale of a torch.amp.GradScaler, which leaves what to do about it to the optimizer.

`scaler.step(optimizer)` skips a step whose gradients are not finite. Between processes nobody may
skip: the others wait for a ballot. So optimizers here say that they see to the scale themselves;
the step is always taken, and a worker whose gradients are not finite sits out.
"""

from collections.abc import Iterable

from torch import Tensor


def unscale(parameters: Iterable[Tensor], scale: Tensor) -> None:
    """Divides gradients by a loss scale, in place, as `scaler.unscale_` does."""
    inverse = scale.double().reciprocal().float()
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(inverse.to(parameter.grad.device))

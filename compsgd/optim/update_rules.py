"""How a round's result moves a parameter (design, section 2, step 5, and section 2b, d).

A rule is handed one parameter at a time, or some of its elements where it keeps no state. All of
them decay first, as AdamW does: the parameter times 1 - lr * l2, rounded by itself.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from compsgd.layout import Span

EPSILON = 1e-8


class StepSize(NamedTuple):
    """What a parameter group says of a step."""

    lr: float
    l2: float

    def scaled(self, factor: float) -> "StepSize":
        return StepSize(self.lr * factor, self.l2)


class UpdateRule(Protocol):
    """Moves parameters.

    Attributes:
        state_names: of the tensors that it keeps for each parameter, float32 of its shape, 0 at
            first and alike on all processes.
        takes_parts: whether elements may be moved a few at a time.
    """

    @property
    def state_names(self) -> tuple[str, ...]: ...
    @property
    def takes_parts(self) -> bool: ...

    def apply(
        self,
        parameter: Tensor,
        place: Span,
        update: Tensor,
        size: StepSize,
        state: Mapping[str, Tensor],
    ) -> None:
        """
        Args:
            parameter: what is moved, of any floating type.
            place: its elements that the update is for; all of them unless it takes parts.
            update: flat float32.
            size: of the step.
            state: the parameter's, by name, and "updates", int64 and 0-dimensional: how many
                updates it has got, this one included.
        """


class Descent:
    """p - lr * update, with lr as float32 and one rounding (design, section 2, step 5)."""

    state_names: tuple[str, ...] = ()
    takes_parts = True

    def apply(
        self,
        parameter: Tensor,
        place: Span,
        update: Tensor,
        size: StepSize,
        state: Mapping[str, Tensor],
    ) -> None:
        change = update.to(parameter)
        # As float32, as the reference has it.
        lr = float(np.float32(size.lr))
        _change(parameter, place, size, lambda own: own.add_(change, alpha=-lr))


_DESCENT = Descent()


class HeavyBall:
    """torch.optim.SGD's momentum: buf = beta * buf + g, and p - lr * buf."""

    state_names = ("momentum_buffer",)
    takes_parts = False

    def __init__(self, beta: float) -> None:
        self._beta = beta

    def apply(
        self,
        parameter: Tensor,
        place: Span,
        update: Tensor,
        size: StepSize,
        state: Mapping[str, Tensor],
    ) -> None:
        buffer = state["momentum_buffer"].view(-1)
        buffer.mul_(self._beta).add_(update)
        _DESCENT.apply(parameter, place, buffer, size, state)


class Adam:
    """torch.optim.Adam's, with the decay of AdamW (Loshchilov and Hutter 2019)."""

    state_names = ("exp_avg", "exp_avg_sq")
    takes_parts = False

    def __init__(self, beta1: float, beta2: float) -> None:
        self._beta1 = beta1
        self._beta2 = beta2

    def apply(
        self,
        parameter: Tensor,
        place: Span,
        update: Tensor,
        size: StepSize,
        state: Mapping[str, Tensor],
    ) -> None:
        mean, square = state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1)
        mean.lerp_(update, 1 - self._beta1)
        square.mul_(self._beta2).addcmul_(update, update, value=1 - self._beta2)
        count = int(state["updates"])
        correction = (1 - self._beta2**count) ** 0.5
        denominator = (square.sqrt() / correction).add_(EPSILON)
        lr = size.lr / (1 - self._beta1**count)
        mean, denominator = mean.to(parameter), denominator.to(parameter)
        _change(parameter, place, size, lambda own: own.addcdiv_(mean, denominator, value=-lr))


def _change(
    parameter: Tensor, place: Span, size: StepSize, move: Callable[[Tensor], object]
) -> None:
    """Decays some of a parameter's elements, and moves them, in place."""
    flat = parameter.view(-1) if parameter.is_contiguous() else parameter.flatten()
    own = flat[place.slice]
    if size.l2:
        own.mul_(float(np.float32(1.0 - size.lr * size.l2)))
    move(own)
    if not parameter.is_contiguous():
        parameter.copy_(flat.view(parameter.shape))

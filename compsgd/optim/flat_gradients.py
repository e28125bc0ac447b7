"""All gradients in one flat buffer, so that a round starts without gathering them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from compsgd.errors import SettingError


class FlatGradients:
    """Lets backward passes add gradients into one vector, in the order of the parameters.

    Between `begin` and `end` every `parameter.grad` is a view of `buffer`; after `end` those of
    parameters that got no gradient are None, as they would be without a buffer. An optimizer over
    the same parameters then reads the buffer itself.

    Attributes:
        buffer: float32, shape (numel of all parameters,).
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """
        Raises:
            SettingError: parameters that are not float32, or not all on one device.
        """
        self._parameters = list(parameters)
        devices = {parameter.device for parameter in self._parameters}
        dtypes = {parameter.dtype for parameter in self._parameters}
        if len(devices) > 1 or dtypes - {torch.float32}:
            raise SettingError("a flat gradient buffer needs float32 parameters on one device")
        sizes = [parameter.numel() for parameter in self._parameters]
        device = self._parameters[0].device if self._parameters else None
        self.buffer = torch.zeros(sum(sizes), dtype=torch.float32, device=device)
        self._views = [
            part.view(parameter.shape)
            for part, parameter in zip(self.buffer.split(sizes), self._parameters, strict=True)
        ]
        self._received = [False] * len(sizes)
        for i, parameter in enumerate(self._parameters):
            parameter.register_post_accumulate_grad_hook(self._note(i))

    def begin(self) -> None:
        """Before backward passes, whose sum is wanted: all gradients are 0."""
        self.buffer.zero_()
        self._received = [False] * len(self._views)
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.grad = view

    def end(self) -> None:
        """After them: takes the view from those that got no gradient, or a permanent 0 would hide
        that."""
        for parameter, received in zip(self._parameters, self._received, strict=True):
            if not received:
                parameter.grad = None

    def _note(self, i: int) -> Callable[[Tensor], None]:
        def note(parameter: Tensor) -> None:
            self._received[i] = True

        return note

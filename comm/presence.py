"""Which parameters have received a gradient."""

from collections.abc import Sequence

from torch import Tensor


class Presence:
    """What has received a gradient since `forget`. A bucket of DistributedDataParallel does not
    tell: it holds zeros where there is none, and zeros would be cast as random votes."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._received: set[int] = set()
        self._handles = [
            parameter.register_post_accumulate_grad_hook(self._note) for parameter in params
        ]

    def has(self, parameter: Tensor) -> bool:
        return id(parameter) in self._received

    def forget(self) -> None:
        self._received.clear()

    def remove(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()

    def _note(self, parameter: Tensor) -> None:
        self._received.add(id(parameter))

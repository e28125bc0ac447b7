"""Votes that are voted on again: two of them without a step of the optimizer in between."""

import logging
from collections.abc import Callable, Sequence

from torch import Tensor

log = logging.getLogger("compsgd")


class RepeatedBackward:
    """Warns once where gradients are added to what an earlier vote has left in `p.grad`: the vote
    would count once more, as if it were a gradient."""

    def __init__(self, params: Sequence[Tensor], remedy: str) -> None:
        """
        Args:
            params: watched until `remove`.
            remedy: what to do, for the warning.
        """
        self._remedy = remedy
        self._params = params
        self._voted_versions: list[int] | None = None
        self._handles = [param.register_hook(self._watch(param)) for param in params]

    def note_vote(self) -> None:
        """Every gradient now is a vote."""
        if not self._handles:
            return
        self._voted_versions = self._versions()

    def remove(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _watch(self, param: Tensor) -> Callable[[Tensor], None]:
        """A hook that runs before a gradient is added to those that are there."""

        def before_accumulation(gradient: Tensor) -> None:
            voted, self._voted_versions = self._voted_versions, None
            if voted is None or voted != self._versions():
                return
            # A scaler that skips a step clears gradients without one.
            if param.grad is not None and bool(param.grad.any()):
                self._warn()

        return before_accumulation

    def _versions(self) -> list[int]:
        """Changes with every step: an optimizer writes into parameters."""
        return [param._version for param in self._params]

    def _warn(self) -> None:
        log.warning(
            "gradients are added to those of an earlier vote, which so is voted on again: %s "
            "(reported once)", self._remedy,
        )  # fmt: skip
        self.remove()

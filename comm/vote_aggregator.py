"""The vote in a user's own training loop: any optimizer, no DistributedDataParallel."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compsgd.comm.membership import Membership
from compsgd.comm.parameters import ParamGradient
from compsgd.comm.repeated_backward import RepeatedBackward
from compsgd.comm.traffic.ledger import Ledger
from compsgd.errors import SettingError
from compsgd.settings import AGGREGATOR_SETTINGS, VoteSettings, takes_settings


@takes_settings(*AGGREGATOR_SETTINGS)
class VoteAggregator:
    """Replaces every `p.grad` by the combined update of all processes.

    What DistributedDataParallel's hook does to gradients, for a loop of one's own and any
    optimizer: the parameters start alike on all processes, each computes gradients on its own
    batch, and `aggregate` votes on them. What it remembers costs 8 bytes a parameter that is
    voted on for the range, and 4 each for momentum and error feedback.

    Source:
        design, sections 2, 2b and 5.

    Args:
        params: model.parameters() or a list of them, in the same order on every process. Those
            that need no gradient are left out.
        settings: VoteSettings to start from; keyword arguments win.
        process_group: over whose processes; None for all if torch.distributed is initialised, and
            otherwise for a process alone.
        exempt: parameters that are averaged whatever their size, as large embeddings.
        {settings}

    Attributes:
        membership: what it has in common with a hook.

    Raises:
        SettingError: an argument out of bounds.

    Examples:
        >>> import compsgd, torch
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        >>> aggregator = compsgd.VoteAggregator(model.parameters(), scale="mean_abs")
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(4, 3)).sum().backward()
        ...     aggregator.aggregate()
        ...     optimizer.step()
        >>> model.weight.grad.tolist()  # alone, and all elements alike: the gradient itself
        [[4.0, 4.0, 4.0]]
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        settings: VoteSettings | None = None,
        process_group: dist.ProcessGroup | None = None,
        *,
        exempt: Iterable[Tensor] = (),
        **changes: Any,
    ) -> None:
        found = VoteSettings.of_client("VoteAggregator", AGGREGATOR_SETTINGS, settings, changes)
        self.membership = Membership(found, process_group)
        self._params = self.membership.set_params(params, exempt)
        self._repeated = RepeatedBackward(
            self._params.all, "aggregate once, behind the last backward before optimizer.step()"
        )

    @property
    def settings(self) -> VoteSettings:
        """What it was made with."""
        return self.membership.settings

    @property
    def ledger(self) -> Ledger:
        """The bytes of the last 1000 steps, and of all of them together."""
        return self.membership.ledger

    @property
    def bytes_per_step(self) -> float:
        """Gradient bytes that this process has sent a step, on average; 0 before the first."""
        return self.membership.bytes_per_step

    @property
    def compression_rate(self) -> float | None:
        """What a float32 ring all-reduce sends, over what was sent; None while nothing was."""
        return self.membership.compression_rate

    def summary(self) -> str:
        """Bytes that this process has sent a step, beside a float32 ring all-reduce, as a table."""
        return self.membership.summary()

    @torch.no_grad()
    def aggregate(self) -> None:
        """Overwrites `p.grad` of every parameter by what all processes make of it; on every
        process, once a step, between backward and optimizer.step().

        1. Parameters without a gradient sit out here. 2. The vote, and the mean of what is exempt.
        3. A parameter for which no process has a gradient keeps none.

        Raises:
            SettingError: a sparse gradient.
            PeerError: a process is gone, or too slow, or, the first time, disagrees.
        """
        vote = self.membership.connect()
        gradients = [self._gradient(parameter) for parameter in self._params.all]
        is_anywhere = vote.is_present_anywhere(gradients)
        vote.take(gradients, self.membership.iteration)
        vote.end_step(self.membership.iteration)
        self.membership.iteration += 1
        for parameter, gradient, has_some in zip(
            self._params.all, gradients, is_anywhere, strict=True
        ):
            parameter.grad = gradient.values if has_some else None
        self._repeated.note_vote()

    def state_dict(self) -> dict[str, Any]:
        """This rank's: the iteration, the memory, and the rank and settings that they belong to.
        Save one a rank, and give each rank its own again."""
        return self.membership.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` has saved on this rank; nothing changes if it does not fit.

        Raises:
            SettingError: of other settings, of other parameters, of another rank, or of something
                else.
        """
        self.membership.load_state_dict(state_dict)

    def _gradient(self, parameter: Tensor) -> ParamGradient:
        place, gradient = self._params.place(parameter), parameter.grad
        if gradient is None:
            return ParamGradient(torch.zeros_like(parameter), place, is_present=False)
        if gradient.layout != torch.strided:
            raise SettingError("a gradient is sparse; the vote takes dense ones (sparse=False)")
        # What is expanded cannot be written into.
        is_expanded = 0 in gradient.stride() and gradient.numel() > 1
        values = gradient.contiguous() if is_expanded else gradient
        return ParamGradient(values, place, is_present=True)

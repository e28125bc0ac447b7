"""What an optimizer remembers, under each parameter in `optimizer.state`, as torch has it.

`state[parameter]` holds "step", as Adam's does, what moves the parameter, as "exp_avg", and for
each hosted worker and each of its flat vectors the part of that parameter, as "max.<worker>". The
number tells workers of different processes apart in a distributed checkpoint. These tensors are
views: arithmetic is done on the flat vectors.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compsgd.kinds import Kind, ScalarInteger, TensorOf
from compsgd.voting.ballot import LARGEST_ROUND

STEP = "step"
NON_FINITE = "num_non_finite"

# optimizer.state, or a part of it: by parameter, then by name.
State = MutableMapping[Any, dict[str, Any]]


class StateViews:
    """What is remembered, as it stands in `optimizer.state`.

    Attributes:
        step: int64, 0-dimensional: how many rounds were taken; the same tensor under each
            parameter.
        num_non_finite: the same, of ballots that sat out because a gradient was not finite; under
            the first parameter.
    """

    def __init__(
        self, parameters: Sequence[Tensor], remembered: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """
        Args:
            parameters: of the optimizer.
            remembered: by parameter and name, tensors that are updated in place.
        """
        self.step = torch.zeros((), dtype=torch.int64)
        self.num_non_finite = torch.zeros((), dtype=torch.int64)
        self._views = [
            (parameter, {STEP: self.step, **own})
            for parameter, own in zip(parameters, remembered, strict=True)
        ]
        if self._views:
            self._views[0][1][NON_FINITE] = self.num_non_finite

    def are_in(self, state: State) -> bool:
        """Whether `state` holds these very tensors: users replace it, or what is in it."""
        return all(
            state.get(parameter, {}).get(name) is view
            for parameter, views in self._views
            for name, view in views.items()
        )

    def adopt(self, state: State) -> None:
        """Takes over the values that are in `state`, and puts the views in their place."""
        for parameter, views in self._views:
            own = state.setdefault(parameter, {})
            for name, view in views.items():
                value = own.get(name)
                if value is not None and value is not view:
                    view.copy_(torch.as_tensor(value))
                own[name] = view

    def kinds(self) -> list[dict[str, Kind]]:
        """By parameter and name, what a saved state must have."""
        return [{name: _kind_of(view) for name, view in views.items()} for _, views in self._views]


def _kind_of(view: Tensor) -> Kind:
    """A saved range may be of another floating type: values are converted."""
    return TensorOf(view.shape) if view.is_floating_point() else ScalarInteger(0, LARGEST_ROUND)


def split_workers(state: Mapping[int, Mapping[str, Any]]) -> tuple[State, dict[int, State]]:
    """The state of a state_dict in what all processes share and what each worker has, so that
    another number of processes can go on with it. `join_workers` undoes it."""
    shared: State = {}
    by_worker: dict[int, State] = {}
    for index, own in state.items():
        shared[index] = {}
        for name, value in own.items():
            kind, _, worker = name.partition(".")
            if worker:
                by_worker.setdefault(int(worker), {}).setdefault(index, {})[kind] = value
            else:
                shared[index][name] = value
    return shared, by_worker


def join_workers(shared: State, by_worker: Mapping[int, State]) -> State:
    """The inverse of split_workers, for the workers that are given."""
    joined = {index: dict(own) for index, own in shared.items()}
    for worker, state in by_worker.items():
        for index, own in state.items():
            joined.setdefault(index, {}).update(
                {f"{kind}.{worker}": value for kind, value in own.items()}
            )
    return joined

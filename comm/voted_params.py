"""A model's parameters as the hook knows them: which are voted on, and where they stand."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from compsgd.comm.vote_settings import VoteSettings
from compsgd.errors import CompsgdError
from compsgd.flat import FlatLayout


class VotedParams:
    """The parameters that need a gradient, in model order.

    Attributes:
        all: those that are voted on, and those that are averaged.
        layout: where the former stand in their flat vector.
        device: where all of them are.
    """

    def __init__(self, settings: VoteSettings, params: Iterable[Tensor]) -> None:
        """
        Raises:
            CompsgdError: no parameters, complex ones, or on several devices.
        """
        self.all = _trained(params)
        devices = {param.device for param in self.all}
        if len(devices) > 1:
            names = ", ".join(sorted(map(str, devices)))
            raise CompsgdError(f"the parameters lie on {names}; the vote needs them on one device")
        (self.device,) = devices
        self._place: dict[int, int | None] = {}
        sizes: list[int] = []
        for param in self.all:
            is_voted = _is_voted_on(settings, param)
            self._place[id(param)] = len(sizes) if is_voted else None
            if is_voted:
                sizes.append(param.numel())
        self.layout = FlatLayout(sizes)

    def place(self, param: Tensor) -> int | None:
        """Its number among those that are voted on; None where it is averaged.

        Raises:
            CompsgdError: it is none of them.
        """
        if id(param) not in self._place:
            raise CompsgdError(
                f"a parameter of shape {tuple(param.shape)} is not among VoteState's params"
            )
        return self._place[id(param)]

    def digest(self) -> str:
        """Of their order, shapes and types."""
        shapes = [(tuple(param.shape), str(param.dtype)) for param in self.all]
        return hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]


def _trained(params: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise CompsgdError(
            f"params is a {type(params).__name__}; it must be model.parameters() or a list of them"
        )
    found = list(params)
    for param in found:
        if not isinstance(param, Tensor):
            raise CompsgdError(f"params holds a {type(param).__name__}; it must hold parameters")
        if param.is_complex():
            raise CompsgdError(
                f"a parameter of shape {tuple(param.shape)} is complex; the vote is on real ones"
            )
    trained = [param for param in found if param.requires_grad]
    if not trained:
        raise CompsgdError("no parameter needs a gradient: there is nothing to vote on")
    return trained


def _is_voted_on(settings: VoteSettings, param: Tensor) -> bool:
    is_exempt = settings.exempt_1d and param.ndim <= 1
    return param.numel() >= max(1, settings.min_compress_numel) and not is_exempt


def as_laid_out(gradient: Tensor, param: Tensor) -> Tensor:
    """A bucket's view of a gradient with the strides of its parameter: DistributedDataParallel lays
    it out so, and hands over a view that is contiguous."""
    spans_itself = 1 + sum((n - 1) * s for n, s in zip(param.shape, param.stride(), strict=True))
    if param.is_contiguous() or param.numel() == 0 or spans_itself != param.numel():
        return gradient
    return torch.as_strided(gradient, param.shape, param.stride())

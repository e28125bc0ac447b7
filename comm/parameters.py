"""A model's parameters as a vote knows them: which are voted on, where they stand, and which have
got a gradient."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compsgd.checks import check_parameter
from compsgd.errors import SettingError
from compsgd.layout import FlatLayout
from compsgd.settings import VoteSettings


class Place(NamedTuple):
    """Of a parameter: its number among those that are voted on, or among those that are exempt."""

    is_voted: bool
    number: int


class ParamGradient(NamedTuple):
    """A parameter's gradient on this process.

    Attributes:
        values: what is overwritten.
        place: where the parameter stands.
        is_present: whether it has got a gradient here; otherwise `values` is 0.
    """

    values: Tensor
    place: Place
    is_present: bool


class VotedParams:
    """The parameters that need a gradient, in model order.

    Attributes:
        all: those that are voted on, and those that are exempt.
        layout: where the former stand in their flat vector.
        exempt_layout: where the latter stand in theirs.
        device: where all of them are.
    """

    def __init__(
        self, settings: VoteSettings, params: Iterable[Tensor], exempt: Iterable[Tensor] = ()
    ) -> None:
        """
        Args:
            settings: say which parameters are exempt by their size or shape.
            params: of the model.
            exempt: those of them that are exempt whatever their size.

        Raises:
            SettingError: no parameters, complex ones, or on several devices; or what is exempt is
                none of them.
        """
        self.exempt = list(exempt)
        self.all = _trained(params)
        devices = {param.device for param in self.all}
        if len(devices) > 1:
            names = ", ".join(sorted(map(str, devices)))
            raise SettingError(f"the parameters lie on {names}; the vote needs them on one device")
        (self.device,) = devices
        self._places: dict[int, Place] = {}
        sizes: dict[bool, list[int]] = {True: [], False: []}
        for param in self.all:
            is_exempt = settings.exempts(param) or any(param is one for one in self.exempt)
            is_voted = param.numel() > 0 and not is_exempt
            self._places[id(param)] = Place(is_voted, len(sizes[is_voted]))
            sizes[is_voted].append(param.numel())
        if not {id(param) for param in self.exempt} <= set(self._places):
            raise SettingError("exempt holds what is no parameter of this model that is trained")
        self.layout = FlatLayout(sizes[True])
        self.exempt_layout = FlatLayout(sizes[False])

    def place(self, param: Tensor) -> Place:
        """Where it stands.

        Raises:
            SettingError: it is none of them.
        """
        if id(param) not in self._places:
            raise SettingError(
                f"a parameter of shape {tuple(param.shape)} is not among the params of this vote: "
                "it needed no gradient when they were handed over, or the model has got it since; "
                "set the state's params anew"
            )
        return self._places[id(param)]

    def digest(self) -> str:
        """Of their order, shapes and types, and of which are exempt."""
        shapes = [
            (tuple(param.shape), str(param.dtype), self.place(param).is_voted) for param in self.all
        ]
        return hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]


class GradientTracker:
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


def as_laid_out(gradient: Tensor, param: Tensor) -> Tensor:
    """A bucket's view of a gradient with the strides of its parameter: DistributedDataParallel lays
    it out so, and hands over a view that is contiguous."""
    spans_itself = 1 + sum((n - 1) * s for n, s in zip(param.shape, param.stride(), strict=True))
    if param.is_contiguous() or param.numel() == 0 or spans_itself != param.numel():
        return gradient
    return torch.as_strided(gradient, param.shape, param.stride())


def _trained(params: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise SettingError(
            f"params is a {type(params).__name__}; it must be model.parameters() or a list of them"
        )
    found = list(params)
    for param in found:
        if not isinstance(param, Tensor):
            raise SettingError(f"params holds a {type(param).__name__}; it must hold parameters")
        check_parameter(param)
        if param.is_complex():
            raise SettingError(
                f"a parameter of shape {tuple(param.shape)} is complex; the vote is on real ones"
            )
    trained = [param for param in found if param.requires_grad]
    if not trained:
        raise SettingError("no parameter needs a gradient: there is nothing to vote on")
    return trained

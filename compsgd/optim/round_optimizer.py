"""One round of N workers as a `torch.optim.Optimizer` (design, sections 2 and 5).

compress: a worker's gradients become its ballot. step: ballots are exchanged, combined into one
update, and applied. What happens in between is the aggregator's.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from compsgd.checks import (
    check_finite,
    check_flag,
    check_integer,
    check_lr,
    check_parameter,
    shown,
)
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.combine import MAX_WORKERS, combine_named
from compsgd.codec.compiling import Work
from compsgd.errors import GradientError, SettingError
from compsgd.gradient import Gradient
from compsgd.kinds import does_not_fit, is_alike
from compsgd.layout import FlatLayout
from compsgd.optim.bin_usage import BinUsage
from compsgd.optim.loss_scale import unscale
from compsgd.optim.param_share import ParamShare
from compsgd.optim.saved_state import (
    BIN_COUNTS,
    EXEMPT_RATIO,
    IS_EXEMPT,
    PENDING,
    ExpectedState,
    read_saved_state,
)
from compsgd.optim.state import StateViews
from compsgd.optim.update_rules import Adam, Descent, HeavyBall, StepSize, UpdateRule
from compsgd.settings import VoteSettings, setting_field
from compsgd.untraced import inherited, untraced
from compsgd.upwards import exchange_over
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.encoder import WorkerEncoder
from compsgd.voting.exchange import Exchange, InProcessExchange
from compsgd.voting.float_aggregator import FloatAggregator
from compsgd.voting.outcome import Aggregator, Outcome
from compsgd.voting.replicas import digest, facts_of, facts_of_model, is_due

log = logging.getLogger("compsgd")

# What the optimizers' arguments have in common, for their docstrings.
ARGUMENTS = """\
params: parameters or groups of them in model order, the same on every process; a
    group may have its own lr and l2, and, where there are levels, exempt=True.
lr: the learning rate, 0 or more; a tensor of one element is taken, too.
settings: to start from; keyword arguments win.
num_workers: N, the workers that train; all of them live in this process, unless an
    exchange or a process group says otherwise.
exchange: carries ballots between processes; or the name of one ("auto", "all_gather",
    "scatter_reduce"), between the processes of process_group.
process_group: of torch.distributed, whose processes train together;
    torch.distributed.group.WORLD is all of them. Each hosts num_workers / size
    workers; a num_workers of 1 is one a process."""

# The shares of the parameters: those that are exempt, and those that are voted on, or all.
_EXEMPT, _MAIN = "exempt", "main"
_EXEMPT_MOMENTUM = 0.9


class RoundOptimizer(torch.optim.Optimizer):
    """What all optimizers here share: who takes part, the order of a round, state, the update.

    Attributes:
        settings: what it was made with.
        exchange: carries the ballots.
        participants: the workers that took part in the last step.
        known_settings: the names of the settings that mean something to it.
        own_defaults: of those whose default is another one here.
        combine: how ballots become a result, one of `compsgd.codec.combine.COMBINES`.
        probe: called with the outcome of every round before it is applied, if anything.
    """

    known_settings: tuple[str, ...] = ()
    own_defaults: ClassVar[Mapping[str, Any]] = {}
    combine = "vote"
    # To a GradScaler: see loss_scale.py.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        *,
        settings: VoteSettings | None = None,
        num_workers: int = 1,
        exchange: Exchange | str | None = None,
        process_group: Any = None,
        **changes: Any,
    ) -> None:
        name = type(self).__name__
        if settings is None:
            changes = {**self.own_defaults, **changes}
        found = VoteSettings.of_client(name, self.known_settings, settings, changes)
        check_integer("num_workers", num_workers, 1, MAX_WORKERS)
        self.settings = self._adapted(found)
        self.exchange = _exchange(num_workers, exchange, process_group, found)
        self.participants: tuple[int, ...] = ()
        self.probe: Callable[[Outcome], None] | None = None
        self._usage = BinUsage(self.settings.num_bits) if found.count_usages else None
        self._is_built = False
        self._is_compared = False
        self._has_told_who_sits_out = False
        # Schedulers that move momentum, as OneCycleLR, want to find one; `_check_groups` says what
        # to set instead.
        defaults = {"lr": check_lr(lr), "l2": found.l2, "momentum": 0.0, **self._fixed}
        super().__init__(params, defaults)
        self._build()

    # What subclasses may say otherwise.

    def _adapted(self, settings: VoteSettings) -> VoteSettings:
        """The settings with what cannot be chosen."""
        return settings

    @classmethod
    def work(cls, settings: VoteSettings, device_type: str) -> Work | None:
        """What there is to compile, for the choice of a compiler; None for nothing."""
        if not cls._has_levels():
            return None
        alphabet = ballot_alphabet(settings.num_bits, not settings.rand_zero)
        binning = settings.binning if cls._has_bins() else None
        return Work(alphabet, binning, combine_named(cls.combine), device_type)

    def _make_shares(self) -> dict[str, ParamShare]:
        """The parameters, by what takes them through a round, which has seen nothing: first those
        that are exempt, then those that are voted on; all in one where there are no levels."""
        if not self._has_levels():
            everything = range(len(self._parameters))
            return {_MAIN: self._float_share(everything, self._rule_of_means())}
        is_exempt = [
            group.get(IS_EXEMPT, self.settings.exempts(parameter))
            for group in self.param_groups
            for parameter in group["params"]
        ]
        exempt = [index for index, exempted in enumerate(is_exempt) if exempted]
        voted = [index for index, exempted in enumerate(is_exempt) if not exempted]
        if exempt and not voted:
            raise SettingError(
                "every parameter is exempt, and there is nothing to vote on; exempt fewer of them "
                "(exempt_1d, min_compress_numel, or exempt of a group)"
            )
        # Sums of several hosted workers begin while these compress: before any ballot travels.
        shares = {_EXEMPT: self._float_share(exempt, self._rule_of_means())} if exempt else {}
        return shares | {_MAIN: self._voted_share(voted)}

    def _voted_share(self, indices: Sequence[int]) -> ParamShare:
        parameters = [self._parameters[index] for index in indices]
        layout = FlatLayout([parameter.numel() for parameter in parameters])
        encoders = {
            worker: WorkerEncoder.fresh(
                layout.numel, self._device, self.settings, has_range=self._has_bins()
            )
            for worker in self.exchange.hosted
        }
        work = self.work(self.settings, self._device.type)
        assert work is not None, "levels are work"
        aggregator = LevelAggregator(
            layout, list(encoders.values()), work, self.exchange, self.settings, self._device
        )
        return ParamShare(indices, parameters, self._device, encoders, aggregator, Descent())

    def _float_share(self, indices: Sequence[int], rule: UpdateRule) -> ParamShare:
        """Of parameters that are moved by their mean gradient."""
        parameters = [self._parameters[index] for index in indices]
        layout = FlatLayout([parameter.numel() for parameter in parameters])
        aggregator = FloatAggregator(layout, parameters, self.exchange, self._device)
        return ParamShare(indices, parameters, self._device, {}, aggregator, rule)

    def _rule_of_means(self) -> UpdateRule:
        """What moves parameters by mean gradients: those that are exempt, or all of them."""
        if self.settings.exempt_optimizer == "sgd":
            return HeavyBall(_EXEMPT_MOMENTUM)
        defaults = VoteSettings()
        return Adam(defaults.beta1, defaults.beta2)

    @classmethod
    def _has_levels(cls) -> bool:
        return "rand_zero" in cls.known_settings

    @classmethod
    def _has_bins(cls) -> bool:
        return "binning" in cls.known_settings

    # The public interface.

    @property
    def aggregator(self) -> Aggregator:
        """What takes the rounds, for the parameters as they are; of those that are voted on, where
        others are exempt."""
        return self._main.aggregator

    @property
    def voted_parameters(self) -> list[Tensor]:
        """Those that `aggregator` has, in model order: all that are not exempt."""
        return list(self._main.parameters)

    @property
    def round(self) -> int:
        """How many steps have been taken."""
        return int(self._views.step)

    @property
    def num_non_finite(self) -> int:
        """How many ballots sat out because a gradient was not finite."""
        return int(self._views.num_non_finite)

    @property
    def bin_counts(self) -> list[npt.NDArray[np.int64]]:
        """With `count_usages`, one int64 array a step, shape (2^num_bits + 1,)."""
        return [] if self._usage is None else self._usage.by_step

    @property
    def keeps_range(self) -> bool:
        """Whether workers have a running range."""
        return any("max" in encoder.state for encoder in self._main.encoders.values())

    def worker_range(self, worker: int) -> tuple[Tensor, Tensor]:
        """The running range of a hosted worker.

        Args:
            worker: its number among all N.

        Returns:
            (maximum, minimum), flat float32 over the parameters that are voted on, infinite where
            the worker has seen no gradient yet.

        Raises:
            SettingError: a worker that is not hosted here, or one that keeps no range.
        """
        if worker not in self.exchange.hosted:
            raise SettingError(f"worker {worker} is not hosted by this process")
        if not self.keeps_range:
            raise SettingError(f"{type(self).__name__} keeps no range")
        state = self._main.encoders[worker].state
        return state["max"], state["min"]

    @untraced
    @torch.no_grad()
    def compress(self, worker: int = 0) -> None:
        """Takes the gradients now in `p.grad` as a worker's ballot for this round.

        `p.grad` stays as it is and may be any real dense or sparse tensor. A parameter whose
        gradient is None sits out; so does the whole worker if any element is not finite. Called
        again before `step`, the later gradient replaces the ballot, and range and momentum have
        seen both.

        Args:
            worker: index among the workers that this process hosts; 0 where it hosts one.

        Raises:
            SettingError: no such worker here, or a complex gradient; with error feedback, a
                second call before `step`; with exempt parameters, one after a higher worker's.
        """
        slot = check_integer("worker", worker, 0, len(self.exchange.hosted) - 1)
        self._refresh()
        gradients = self._gather()
        for name, share in self._shares.items():
            share.aggregator.compress(slot, gradients[name], self.round)

    @untraced
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Exchanges the ballots of all workers and applies their joint update.

        A process that hosts one worker need not call `compress`: step does, with the gradients in
        `p.grad`. Hosted workers that did not compress since the last step sit the round out.

        Args:
            closure: evaluates the model again and returns the loss; runs with gradients enabled.

        Returns:
            what closure returned, or None.

        Raises:
            SettingError: several hosted workers, gradients, and none of them compressed; a
                parameter group was given what cannot be.
            GradientError: with `strict`, a gradient that is not finite.
            PeerError: a ballot that belongs elsewhere, or a process that is gone.
            DamagedDataError: bytes that are no ballot; some parameters may have been moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._refresh()
        if not self._is_compared:
            self._compare_at_start()
        gradients = self._not_compressed()
        outcomes = {
            name: share.aggregator.aggregate(self.round, gradients.get(name))
            for name, share in self._shares.items()
        }
        is_compared = is_due(self.round, self._check_every)
        facts = self._facts_of(outcomes) if is_compared else {}
        self._note_participation(outcomes)
        if self.probe is not None:
            self.probe(outcomes[_MAIN])
        for name, share in self._shares.items():
            usage = self._usage if name == _MAIN else None
            share.move(outcomes[name], self._step_sizes(name), usage)
        if is_compared:
            self._compare(facts)
        self._end_round()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, at the end of the flat vector. A group may have an lr and an l2 of its
        own, and say itself whether it is exempt.

        Raises:
            SettingError: a group that differs in more than that, or a call between compress and
                step.
        """
        self._check_new_group(param_group)
        if self._is_built and self.aggregator.cast:
            raise SettingError("add_param_group between compress and step; call step first")
        inherited(super().add_param_group)(param_group)
        self._note_exempt_lr(self.param_groups[-1])
        if self._is_built:
            try:
                self._build()
            except SettingError:
                self.param_groups.pop()
                self._build()
                raise

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As everywhere in torch."""
        inherited(super().zero_grad)(set_to_none)

    # State.

    def state_dict(self) -> dict[str, Any]:
        """As everywhere in torch: "state" by parameter and "param_groups". Under the first
        parameter stands what belongs to none: bin counts, a list a step, and ballots that are cast
        but not counted, which a distributed checkpoint leaves out."""
        self._refresh()
        state_dict: dict[str, Any] = inherited(super().state_dict)()
        extra: dict[str, Any] = {PENDING + name: value for name, value in self._pending().items()}
        if self._usage is not None:
            extra[BIN_COUNTS] = self._usage.as_lists()
        if extra and self._parameters:
            state = state_dict["state"] = dict(state_dict["state"])
            state[0] = state[0] | extra
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over state saved by `state_dict`; nothing changes if it does not fit.

        Raises:
            SettingError: state of other parameters or other settings, without a worker that is
                hosted here, or with values that cannot be; "this state_dict does not fit: ...".
        """
        self._refresh()
        with does_not_fit():
            saved = read_saved_state(state_dict, self._expected_state())
            if saved.pending:
                # On trial: if it does not fit, nothing has changed.
                _restore(self._make_shares(), saved.pending, saved.step)
        inherited(super().load_state_dict)(saved.as_state_dict())
        self.state.clear()
        for parameter, own in zip(self._parameters, saved.by_parameter, strict=True):
            self.state[parameter] = dict(own)
        # torch has called __setstate__, and so built everything anew, from state that it has cast
        # to the parameters' types.
        self._views.adopt(self.state)
        _restore(self._shares, saved.pending, saved.step)
        if self._usage is not None:
            self._usage.restore(saved.bin_counts)

    def _expected_state(self) -> ExpectedState:
        pending = {
            f"{name} {kept}": kind
            for name, share in self._shares.items()
            for kept, kind in share.aggregator.pending_kinds().items()
        }
        return ExpectedState(
            groups=self.param_groups,
            fixed=self._fixed,
            by_parameter=self._views.kinds(),
            pending=pending,
            num_bins=None if self._usage is None else self._usage.num_bins,
        )

    def __getstate__(self) -> dict[str, Any]:
        self._refresh()
        names = ("settings", "exchange", "participants", "_usage")
        kept = {name: getattr(self, name) for name in names}
        return super().__getstate__() | kept | {"_pending": self._pending()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        pending = state.pop("_pending", {})
        super().__setstate__(state)
        self.__dict__.setdefault("probe", None)
        self.__dict__.setdefault("_is_compared", False)
        self.__dict__.setdefault("_has_told_who_sits_out", False)
        self._build()
        _restore(self._shares, pending, self.round)

    def _pending(self) -> dict[str, Tensor]:
        return {
            f"{name} {kept}": value
            for name, share in self._shares.items()
            for kept, value in share.aggregator.pending().items()
        }

    # Inside.

    @functools.cached_property
    def _fixed(self) -> dict[str, Any]:
        """The settings that saved state depends on: they stand in every parameter group, and cannot
        change."""
        lasting = self.settings.lasting()
        return {name: lasting[name] for name in self.known_settings if name in lasting}

    def _build(self) -> None:
        """Flat vectors, their views in `state`, and what takes the rounds, for the parameters as
        they are."""
        self._parameters = [param for group in self.param_groups for param in group["params"]]
        for parameter in self._parameters:
            check_parameter(parameter)
        self._device = self._parameters[0].device if self._parameters else torch.device("cpu")
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self._shares = self._make_shares()
        # The parameters that are voted on, or all of an optimizer that votes on none.
        self._main = self._shares[_MAIN]
        remembered = {
            index: state
            for share in self._shares.values()
            for index, state in zip(share.indices, share.state(), strict=True)
        }
        in_order = [remembered[index] for index in range(len(self._parameters))]
        self._views = StateViews(self._parameters, in_order)
        self._views.adopt(self.state)
        self._is_built = True

    def _refresh(self) -> None:
        """Checks the groups, and takes note if a user has replaced `state` or tensors in it, or
        moved the model."""
        self._check_groups()
        is_moved = bool(self._parameters) and self._parameters[0].device != self._device
        if is_moved or not self._views.are_in(self.state):
            pending, round_ = self._pending(), self.round
            self._build()
            if self.round == round_:
                _restore(self._shares, pending, round_)

    def _check_groups(self) -> None:
        """Raises SettingError if somebody has moved what cannot move."""
        if [parameter.numel() for parameter in self._parameters] != self._sizes:
            raise SettingError("a parameter has been resized; make a new optimizer to train it")
        num_params = sum(len(group["params"]) for group in self.param_groups)
        if num_params != len(self._parameters):
            raise SettingError(
                f"the parameter groups hold {num_params} parameters, and held "
                f"{len(self._parameters)} before; make a new optimizer to train others"
            )
        for group in self.param_groups:
            momentum = self._fixed.get("momentum", 0.0)
            if not is_alike(group.get("momentum"), momentum):
                raise SettingError(
                    f"momentum of a parameter group is {shown(group.get('momentum'))}; "
                    f"{type(self).__name__} stays at {momentum}: with OneCycleLR or CyclicLR set "
                    "cycle_momentum=False"
                )
            for name, value in self._fixed.items():
                if not is_alike(group.get(name), value):
                    raise SettingError(
                        f"{name} of a parameter group is {shown(group.get(name))}; it stays "
                        f"{value!r}"
                    )
            for name in ("lr", "l2"):
                check_finite(f"{name} of a parameter group", group.get(name))

    def _check_new_group(self, group: Mapping[str, Any]) -> None:
        """Raises SettingError for what cannot be, or cannot differ from group to group."""
        if not isinstance(group, Mapping):
            raise SettingError(f"a parameter group is {shown(group)}; it must be a dict")
        for name, value in group.items():
            if name == "lr":
                check_lr(value)
            elif name == "l2":
                setting_field(name).metadata["kind"].check(name, value)
            elif name == IS_EXEMPT and "exempt_1d" in self.known_settings:
                check_flag(name, value)
            elif name not in _GROUP_NAMES and not is_alike(value, self._fixed.get(name, 0)):
                raise SettingError(
                    f"a parameter group sets {name}={shown(value)}; only lr, l2 and exempt can "
                    "differ between groups"
                )

    def _note_exempt_lr(self, group: dict[str, Any]) -> None:
        """exempt_lr as a multiple of the group's lr, so that it follows what schedulers do to that.

        Raises:
            SettingError: the lr is 0, of which it is no multiple.
        """
        exempt_lr = self.settings.exempt_lr
        if exempt_lr is None or EXEMPT_RATIO in group:
            return
        if not float(group["lr"]):
            self.param_groups.pop()
            raise SettingError(
                "exempt_lr follows the schedule of lr, which starts at 0 here; start it above"
            )
        group[EXEMPT_RATIO] = exempt_lr / float(group["lr"])

    def _gather(self) -> dict[str, Gradient]:
        """The gradients now in `p.grad`, by share."""
        gradients = {name: share.gather() for name, share in self._shares.items()}
        if len(gradients) > 1:
            # A worker takes part with all it has, or with nothing; one share reports why.
            bad = next((name for name, one in gradients.items() if not one.is_finite()), None)
            if bad is not None:
                gradients = {
                    name: one if name == bad else one.absent() for name, one in gradients.items()
                }
        return gradients

    def _not_compressed(self) -> dict[str, Gradient]:
        """The gradients of one hosted worker that has not compressed; nothing where it has, and
        where several are hosted, of whom it says if some have not."""
        hosted, cast = self.exchange.hosted, self._main.aggregator.cast
        # A GradScaler's, within its own step; None behind its unscale_.
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            if cast:
                raise SettingError(
                    "compress was called with gradients that a GradScaler has scaled; call "
                    "scaler.unscale_(optimizer) before compress"
                )
            unscale(self._parameters, scale)
        if not cast:
            return self._gradients_alone()
        if len(cast) < len(hosted) and not self._has_told_who_sits_out:
            missing = [str(worker) for slot, worker in enumerate(hosted) if slot not in cast]
            self._has_told_who_sits_out = True
            log.warning(
                "step: worker%s %s did not compress, and sit%s out (reported once); a worker "
                "without a batch compresses with all gradients None",
                "s" if len(missing) > 1 else "", ", ".join(missing),
                "" if len(missing) > 1 else "s",
            )  # fmt: skip
        return {}

    def _gradients_alone(self) -> dict[str, Gradient]:
        if len(self.exchange.hosted) == 1:
            return self._gather()
        if any(parameter.grad is not None for parameter in self._parameters):
            raise SettingError(
                f"this process hosts {len(self.exchange.hosted)} workers and none has compressed: "
                "call compress(worker=i) after each worker's backward"
            )
        return {}

    # Whether all processes are the same.

    def _compare_at_start(self) -> None:
        """Once, before the first exchange: sizes that differ would end other processes, too.

        Raises:
            PeerError: on every process alike, naming what differs and where.
        """
        self._is_compared = True
        if self.exchange.num_processes == 1:
            return
        shared = self.settings.shared()
        settings = {name: repr(shared[name]) for name in self.known_settings if name in shared}
        kind = {"the optimizer": type(self).__name__, "the number of steps": str(self.round)}
        self.exchange.compare(kind | settings | facts_of_model(self._parameters))

    @functools.cached_property
    def _check_every(self) -> int:
        """Rounds between comparisons; 0 for none, as where there is nobody to compare with."""
        return self.settings.check_every if self.exchange.num_processes > 1 else 0

    def _facts_of(self, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
        """What the processes compare of this round."""
        facts: dict[str, str] = {}
        for name, outcome in outcomes.items():
            of_share = facts_of(outcome, self.exchange, self.round)
            facts |= {f"{fact} ({name})" if name == _EXEMPT else fact: found
                      for fact, found in of_share.items()}  # fmt: skip
        return facts

    def _compare(self, facts: dict[str, str]) -> None:
        """Raises PeerError on every process alike, naming what differs and where."""
        weights = {f"the weights after round {self.round}": digest(self._parameters)}
        self.exchange.compare(facts | weights)

    def _note_participation(self, outcomes: Mapping[str, Outcome]) -> None:
        """Reports the first gradient that is not finite, counts all; with strict, raises."""
        found = {worker for one in outcomes.values() for worker in one.participants}
        self.participants = tuple(sorted(found))
        reports = [
            (header, self._shares[name].indices[header.non_finite])
            for name, outcome in outcomes.items()
            for header in outcome.headers
            if header.non_finite is not None
        ]
        for header, index in sorted(reports, key=lambda report: report[0].worker):
            message = (
                f"worker {header.worker} sits out round {header.round}: the gradient of parameter "
                f"{self._parameter_name(index)} is not finite"
            )
            if self.settings.strict:
                for outcome in outcomes.values():
                    outcome.complete()
                self.participants = ()
                self._end_round()
                raise GradientError(message)
            if self.num_non_finite == 0:
                log.warning("%s (reported once, counted from here on)", message)
            self._views.num_non_finite += 1

    def _step_sizes(self, name: str) -> list[StepSize]:
        """Of the parameters of a share, as their groups have it now."""
        sizes = []
        for group in self.param_groups:
            ratio = group.get(EXEMPT_RATIO, 1.0) if name == _EXEMPT else 1.0
            sizes += [StepSize(float(group["lr"]) * ratio, float(group["l2"]))] * len(
                group["params"]
            )
        return [sizes[index] for index in self._shares[name].indices]

    def _end_round(self) -> None:
        self.exchange.end_round(self.participants)
        self._views.step += 1

    def _parameter_name(self, index: int) -> str:
        names = [
            name
            for group in self.param_groups
            for name in group.get("param_names") or [None] * len(group["params"])
        ]
        return f"number {index}" if names[index] is None else str(names[index])


# What torch or we ourselves put into a group, or a user as a name.
_GROUP_NAMES = {"params", "param_names", "initial_lr", "name", EXEMPT_RATIO}


def _restore(shares: Mapping[str, ParamShare], pending: Mapping[str, Tensor], round_: int) -> None:
    """Takes over ballots that were cast but not counted, by share and name."""
    for name, share in shares.items():
        start = f"{name} "
        own = {
            kept.removeprefix(start): value
            for kept, value in pending.items()
            if kept.startswith(start)
        }
        share.aggregator.restore(own, round_)


def _exchange(
    num_workers: int,
    exchange: Exchange | str | None,
    process_group: Any,
    settings: VoteSettings,
) -> Exchange:
    if process_group is not None or isinstance(exchange, str):
        if not isinstance(exchange, str | None):
            raise SettingError("exchange and process_group are both given; one of them carries")
        return exchange_over(process_group, exchange or "auto", num_workers, settings)
    if exchange is None:
        return InProcessExchange(num_workers)
    if not hasattr(exchange, "distribute"):
        raise SettingError(f"exchange is {exchange!r}; it must be an Exchange, or the name of one")
    if num_workers not in (1, exchange.num_workers):
        raise SettingError(
            f"num_workers is {num_workers}, but the exchange connects {exchange.num_workers}"
        )
    return exchange

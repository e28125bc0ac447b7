"""One round of N workers as a `torch.optim.Optimizer` (design, sections 2 and 5).

compress: a worker's gradients become its ballot. step: ballots are exchanged, combined into one
update, and applied. What a ballot holds and how ballots combine is for the subclasses to say.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from compsgd.ballot import BallotHeader, header_num_bytes
from compsgd.checks import check_flag, check_integer, check_lr
from compsgd.electorate import Electorate
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange, InProcessExchange
from compsgd.flat import FlatLayout, Run
from compsgd.gradient_parts import GradientParts, gather
from compsgd.vote import MAX_WORKERS
from compsgd.witness import RoundWitness

log = logging.getLogger("compsgd")

_GROUP_KEYS = {"params", "lr", "param_names", "initial_lr"}


class RoundOptimizer(torch.optim.Optimizer):
    """What all optimizers here share: who takes part, the order of a round, state, the update.

    Attributes:
        exchange: carries the ballots.
        participants: the workers that took part in the last step.
        num_non_finite: how many ballots sat out because a gradient was not finite.
        witness: who sees the next rounds from the inside, if anybody.
    """

    symbol_bits: int
    zeros: bool
    witness: RoundWitness | None = None
    _kept_attributes: tuple[str, ...] = ("seed", "exchange", "strict", "participants", "_layout")

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        seed: int,
        num_workers: int,
        exchange: Exchange | None,
        strict: bool,
    ) -> None:
        check_integer("num_workers", num_workers, 1, MAX_WORKERS)
        if exchange is not None and num_workers not in (1, exchange.num_workers):
            raise CompsgdError(
                f"num_workers is {num_workers}, but the exchange connects {exchange.num_workers}"
            )
        self.seed = check_integer("seed", seed, 0)
        self.exchange: Exchange = exchange or InProcessExchange(num_workers)
        self.strict = check_flag("strict", strict)
        self.participants: tuple[int, ...] = ()
        self._layout = FlatLayout([])
        super().__init__(params, {"lr": check_lr(lr)})
        self._global.update({"round": 0, "num_non_finite": 0, "ballots": {}})

    # What subclasses say.

    @abstractmethod
    def _make_payload(
        self, worker: int, gradient: GradientParts, present: Sequence[bool]
    ) -> Tensor:
        """The ballot's content: `gradient` is finite, and 0 where a parameter is absent."""

    @abstractmethod
    def _blank_payload(self) -> Tensor:
        """The content of a worker that sits out; as large as any other."""

    @abstractmethod
    def _exchange_ballots(self) -> tuple[list[BallotHeader], Tensor]:
        """Carries the hosted workers' ballots: all N headers, and the payloads in some form."""

    @abstractmethod
    def _combine(
        self, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Iterator[tuple[Run, Tensor]]:
        """The update of the round, run by run, flat float32; whatever stands where nobody votes is
        ignored. The next one may overwrite it."""

    # The public interface.

    @property
    def num_non_finite(self) -> int:
        return int(self._global["num_non_finite"])

    @property
    def round(self) -> int:
        """How many steps have been taken."""
        return int(self._global["round"])

    @torch.no_grad()
    def compress(self, worker: int = 0) -> None:
        """Takes the gradients now in `p.grad` as a worker's ballot for this round.

        `p.grad` stays as it is and may be any real dense or sparse tensor. A parameter whose
        gradient is None sits out; so does the whole worker if any element is not finite. Called
        again before `step`, the later gradient replaces the ballot, and the range has seen both.

        Args:
            worker: index among the workers that this process hosts; 0 where it hosts one.

        Raises:
            CompsgdError: no such worker here, or a complex gradient.
        """
        hosted = self.exchange.hosted
        worker_id = hosted[check_integer("worker", worker, 0, len(hosted) - 1)]
        gradient, present = self._gather_gradient()
        culprit = self._first_non_finite(gradient)
        if culprit is not None:
            present = [False] * len(present)
        takes_part = any(present)
        payload = (
            self._make_payload(worker_id, gradient, present)
            if takes_part
            else self._blank_payload()
        )
        header = self._header(worker_id, present, culprit)
        self._global["ballots"][worker_id] = {"header": header.to_tensor(), "payload": payload}

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
            CompsgdError: several hosted workers, gradients, and none of them compressed; with
                `strict`, a gradient that is not finite; a ballot that belongs elsewhere.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._take_round()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, at the end of the flat vector. A group may have an lr of its own."""
        foreign = sorted(set(param_group) - _GROUP_KEYS)
        if foreign:
            raise CompsgdError(
                f"a parameter group sets {', '.join(foreign)}; only lr can differ between groups"
            )
        if self._global.get("ballots"):
            raise CompsgdError("add_param_group between compress and step; call step first")
        if "lr" in param_group:
            check_lr(param_group["lr"])
        super().add_param_group(param_group)
        self._layout = FlatLayout([parameter.numel() for parameter in self._parameters()])

    def state_dict(self) -> dict[str, Any]:
        """As everywhere in torch; beside it the round, the ballots, and the settings that they
        depend on."""
        state_dict: dict[str, Any] = super().state_dict()
        state = state_dict["state"]
        state["settings"] = self._settings()
        # Later ballots of this round are not to appear in what was saved before them.
        state["ballots"] = {
            worker: {"header": saved["header"], "payload": self._copy(saved["payload"])}
            for worker, saved in state["ballots"].items()
        }
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over state saved by `state_dict`; nothing changes if it does not fit.

        Raises:
            CompsgdError: state of other parameters, other settings, or other workers than are
                hosted here.
        """
        own = self._own_state(state_dict)
        super().load_state_dict(state_dict)
        self._global.clear()
        self._global.update(own)

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in self._kept_attributes}
        return super().__getstate__() | kept

    # A round from the inside.

    def _take_round(self) -> None:
        self._compress_if_alone()
        headers, payloads = self._exchange_ballots()
        self._note_participation(headers)
        electorates = self._electorates(headers)
        if self.participants:
            updates = self._combine(electorates, payloads)
            if self.witness is not None:
                updates = self.witness.watch(electorates, payloads, updates)
            self._move(headers, updates)
        else:
            self._combine_nothing()
        self._end_round()

    @property
    def _global(self) -> dict[str, Any]:
        """State that belongs to no single parameter. `state` takes string keys beside tensors."""
        state: dict[Any, Any] = self.state
        return state

    @property
    def _device(self) -> torch.device:
        parameters = self._parameters()
        return parameters[0].device if parameters else torch.device("cpu")

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _parameter_name(self, index: int) -> str:
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        return str(names[index]) if names else f"number {index}"

    def _gather_gradient(self) -> tuple[GradientParts, list[bool]]:
        """The gradients now in `p.grad`, and by parameter whether there is one."""
        parameters = self._parameters()
        gradient = gather(parameters, self._layout, self._device)
        return gradient, [parameter.grad is not None for parameter in parameters]

    def _first_non_finite(self, gradient: GradientParts) -> int | None:
        """The number of the first parameter whose gradient is not finite, or None."""
        return gradient.first_non_finite()

    def _header(
        self, worker: int, present: Sequence[bool], culprit: int | None = None
    ) -> BallotHeader:
        return BallotHeader(worker, self.round, self.symbol_bits, self.zeros, present, culprit)

    def _header_num_bytes(self) -> int:
        """What stands in front of a payload."""
        return header_num_bytes(len(self._layout.runs))

    def _compress_if_alone(self) -> None:
        if self._global["ballots"]:
            return
        if len(self.exchange.hosted) == 1:
            self.compress()
        elif any(parameter.grad is not None for parameter in self._parameters()):
            raise CompsgdError(
                f"this process hosts {len(self.exchange.hosted)} workers and none has compressed: "
                "call compress(worker=i) after each worker's backward"
            )

    def _hosted_header(self, worker: int) -> Tensor:
        """A hosted worker's header, of a ballot or of sitting out; uint8, shape (num_bytes,)."""
        saved = self._global["ballots"].get(worker)
        if saved is not None:
            header: Tensor = saved["header"]
            return header
        return self._header(worker, [False] * len(self._layout.runs)).to_tensor()

    def _hosted_payload(self, worker: int) -> Tensor:
        saved = self._global["ballots"].get(worker)
        if saved is not None:
            payload: Tensor = saved["payload"]
            return payload
        return self._blank_payload()

    def _read_headers(self, rows: Tensor) -> list[BallotHeader]:
        """The headers of all N workers from uint8 rows that begin with them, checked."""
        head = rows[:, : header_num_bytes(len(self._layout.runs))].cpu()
        headers = [BallotHeader.from_tensor(row) for row in head]
        for worker, header in enumerate(headers):
            expected = self._header(worker, [False] * len(self._layout.runs))
            header.check_matches(expected)
        return headers

    def _end_round(self) -> None:
        self.exchange.end_round(self.participants)
        self._global["ballots"] = {}
        self._global["round"] += 1

    def _note_participation(self, headers: Sequence[BallotHeader]) -> None:
        """Reports the first gradient that is not finite, counts all; with strict, raises."""
        self.participants = tuple(header.worker for header in headers if header.takes_part)
        for header in headers:
            if header.non_finite is None:
                continue
            message = (
                f"worker {header.worker} sits out round {header.round}: the gradient of parameter "
                f"{self._parameter_name(header.non_finite)} is not finite"
            )
            if self.strict:
                self.participants = ()
                self._end_round()
                raise CompsgdError(message)
            if self.num_non_finite == 0:
                self._warn(f"{message} (reported once, counted from here on)")
            self._global["num_non_finite"] += 1

    def _warn(self, message: str) -> None:
        log.warning(message)

    def _electorates(self, headers: Sequence[BallotHeader]) -> list[Electorate]:
        """Runs of parameters on which the same workers vote; runs without voters are left out."""
        voters = [
            tuple(header.worker for header in headers if header.present[i])
            for i in range(len(self._layout.runs))
        ]
        return [
            Electorate(run, workers)
            for workers, run in self._layout.labelled_runs(voters)
            if workers
        ]

    def _combine_nothing(self) -> None:
        """A round in which nobody takes part changes nothing; a subclass may record it."""

    def _move(self, headers: Sequence[BallotHeader], updates: Iterable[tuple[Run, Tensor]]) -> None:
        """Applies the update of a round where somebody votes."""
        has_voters = self._has_voters(headers)
        # As float32, as the reference has it.
        targets = [
            (parameter, float(np.float32(float(group["lr"]))))
            for group in self.param_groups
            for parameter in group["params"]
        ]
        for run, update in updates:
            for index, part in self._layout.parts_of(run):
                if has_voters[index]:
                    place = part.shifted(-self._layout.runs[index].start)
                    _apply(*targets[index], place, update[part.shifted(-run.start).slice])

    def _has_voters(self, headers: Sequence[BallotHeader]) -> list[bool]:
        """By parameter, whether anybody votes on it."""
        return [any(column) for column in zip(*(h.present for h in headers), strict=True)]

    # State.

    def _own_state(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Our part of a state_dict, checked and copied to where the parameters are."""
        state = state_dict.get("state", {})
        self._check_origin(state_dict, state)
        ballots = {
            worker: {
                "header": saved["header"].cpu().clone(),
                "payload": self._copy(saved["payload"]),
            }
            for worker, saved in state["ballots"].items()
        }
        for worker, ballot in ballots.items():
            self._check_ballot(worker, ballot, state["round"])
        return {
            "round": int(state["round"]),
            "num_non_finite": int(state["num_non_finite"]),
            "ballots": ballots,
        }

    def _check_origin(self, state_dict: dict[str, Any], state: dict[Any, Any]) -> None:
        """Raises CompsgdError unless such an optimizer, over so many parameters, saved this."""
        expected = [key for key in self._global if isinstance(key, str)]
        missing = [key for key in [*expected, "settings"] if key not in state]
        if missing:
            raise CompsgdError(
                f"this state_dict has no {', '.join(missing)}: it is not one of "
                f"{type(self).__name__}"
            )
        own_sizes, sizes = (
            [len(group["params"]) for group in groups]
            for groups in (self.param_groups, state_dict["param_groups"])
        )
        if own_sizes != sizes:
            raise CompsgdError(
                f"this state_dict is of groups of {sizes} parameters; here are {own_sizes}"
            )
        for name, value in self._settings().items():
            saved = state["settings"].get(name)
            if saved != value:
                raise CompsgdError(
                    f"this state_dict was saved with {name}={saved!r}; here it is {value!r}"
                )

    def _check_ballot(self, worker: int, ballot: dict[str, Any], round_: int) -> None:
        if worker not in self.exchange.hosted:
            raise CompsgdError(
                f"this state_dict holds a ballot of worker {worker}, who is not hosted here"
            )
        header = BallotHeader.from_tensor(ballot["header"])
        header.check_matches(
            BallotHeader(worker, round_, self.symbol_bits, self.zeros, header.present)
        )
        payload = ballot["payload"]
        if payload is not None and payload.shape != self._blank_payload().shape:
            raise CompsgdError(f"this state_dict's ballot of worker {worker} has another size")

    def _settings(self) -> dict[str, Any]:
        """What the random bits and the ballots depend on."""
        return {"seed": self.seed, "symbol_bits": self.symbol_bits, "zeros": self.zeros}

    def _copy(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().clone().to(self._device)


def _apply(parameter: Tensor, lr: float, place: Run, update: Tensor) -> None:
    """p = p - lr * update with lr as float32 and one rounding (design, section 2, step 5).

    Args:
        place: the elements of the parameter that the update is for.
        update: flat float32.
    """
    change = update.to(parameter)
    if parameter.is_contiguous():
        parameter.view(-1)[place.slice].add_(change, alpha=-lr)
    else:
        moved = parameter.flatten()
        moved[place.slice].add_(change, alpha=-lr)
        parameter.copy_(moved.view(parameter.shape))

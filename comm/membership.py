"""A process's membership in the votes of a process group: settings, state, and the bytes."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compsgd.checks import check_integer
from compsgd.comm.exchanges import check_exchange, joined_group
from compsgd.comm.group.agreement import check_agreement
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.group_vote import EXEMPT_MOMENTUM, GroupVote, memory_sizes
from compsgd.comm.parameters import VotedParams
from compsgd.comm.traffic.cost import ring_all_reduce
from compsgd.comm.traffic.ledger import Ledger, Purpose
from compsgd.errors import PeerError, SettingError
from compsgd.settings import VoteSettings
from compsgd.voting.encoder import WorkerEncoder
from compsgd.voting.replicas import digest

Memory = dict[str, Tensor]


class Membership:
    """What a hook and an aggregator have in common.

    Attributes:
        settings: how to vote.
        process_group: over whose processes; None for all, or for a process alone.
        iteration: how many steps have been taken.
        ledger: the bytes of the last 1000 steps, and of all of them together.
        params: the model's; None as long as they are not known.
    """

    def __init__(self, settings: VoteSettings, process_group: dist.ProcessGroup | None) -> None:
        """
        Raises:
            SettingError: there is no such exchange.
        """
        check_exchange(settings.exchange)
        self.settings = settings
        self.process_group = process_group
        self.iteration = 0
        self.ledger = Ledger.short()
        self.params: VotedParams | None = None
        self._saved: Memory | None = None
        self._vote: GroupVote | None = None

    def set_params(self, params: Iterable[Tensor], exempt: Iterable[Tensor] = ()) -> VotedParams:
        """The model's parameters. Set anew, they keep the memory if it is of their size.

        Raises:
            SettingError: no parameters that can be voted on, or memory of another size.
        """
        known = VotedParams(self.settings, params, exempt)
        memory = self.memory()
        if memory is not None:
            _check_fits(memory, self.settings, known)
        self._saved, self._vote = memory, None
        self.params = known
        return known

    def connect(self) -> GroupVote:
        """Joins the others, the first time: a group of its own over the same processes, which
        compare what must be alike. All processes call it together.

        Raises:
            SettingError: the parameters are not known.
            PeerError: processes disagree, or not all came.
        """
        if self._vote is None:
            if self.params is None:
                raise SettingError(
                    "this VoteState does not know the model's parameters: hand it "
                    "params=model.parameters(), or use compsgd.comm.register_vote_hook(ddp)"
                )
            self._vote = GroupVote(self.settings, self.params, self._join(self.params))
            if self._saved is not None:
                self._vote.load_memory(self._saved)
            self._saved = None
        return self._vote

    def memory(self) -> Memory | None:
        """What this process remembers; None as long as there is nothing."""
        return self._saved if self._vote is None else self._vote.memory()

    def state_dict(self) -> dict[str, Any]:
        """This rank's: the iteration, the memory, and the settings that they belong to."""
        return {
            "iteration": self.iteration,
            "memory": self.memory(),
            "settings": self.settings.lasting(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` has saved on this rank; nothing changes if it does not fit.

        Raises:
            SettingError: of other settings, of other parameters, or of something else.
        """
        settings, memory, iteration = _parts_of(
            state_dict, WorkerEncoder.state_names(self.settings)
        )
        for name, value in self.settings.lasting().items():
            saved = settings.get(name)
            if saved != value:
                raise SettingError(
                    f"this state_dict was saved with {name}={saved!r}; here it is {value!r}"
                )
        if memory is not None and self.params is not None:
            _check_fits(memory, self.settings, self.params)
        self.iteration = iteration
        if self._vote is None:
            self._saved = memory
        else:
            self._vote.load_memory(memory)

    def restore(self, iteration: int, memory: Memory | None) -> None:
        """What another process, or an earlier one, has kept."""
        self.iteration, self._saved = iteration, memory

    @property
    def bytes_per_step(self) -> float:
        """Gradient bytes that this process has sent a step, on average; 0 before the first."""
        sent_bytes = self.ledger.wire[Purpose.GRADIENT].sent_bytes
        return sent_bytes / max(self.ledger.num_steps, 1)

    @property
    def compression_rate(self) -> float | None:
        """What a float32 ring all-reduce sends, over what was sent; None while nothing was."""
        sent_bytes = self.bytes_per_step
        return self._uncompressed_bytes() / sent_bytes if sent_bytes else None

    def summary(self) -> str:
        """Bytes that this process has sent a step, beside a float32 ring all-reduce, as a table."""
        if not self.ledger.num_steps:
            return "no step yet"
        rate = self.compression_rate
        rows = [
            ("steps", f"{self.ledger.num_steps:,}"),
            ("bytes sent a step", f"{self.bytes_per_step:,.0f}"),
            ("float32 all-reduce", f"{self._uncompressed_bytes():,}"),
            ("compression", "-" if rate is None else f"{rate:.2f}x"),
        ]
        width = max(len(value) for _, value in rows)
        return "\n".join(f"{name:<18}  {value:>{width}}" for name, value in rows)

    def _uncompressed_bytes(self) -> int:
        if self.params is None or self._vote is None:
            return 0
        numel = sum(parameter.numel() for parameter in self.params.all)
        return ring_all_reduce(numel, self._vote.world_size)

    def _join(self, params: VotedParams) -> Collectives:
        """The collectives of the votes."""
        group = self._new_group()
        size = 1 if group is None else group.size()
        timeout = timedelta(seconds=self.settings.timeout_s)
        bookkeeping = Collectives(self.ledger, Purpose.BOOKKEEPING, size, group, timeout)
        check_agreement(bookkeeping, self._facts(params))
        return Collectives(self.ledger, Purpose.GRADIENT, size, group, timeout)

    def _new_group(self) -> Any:
        """One of our own, whose collectives meet nobody else's. None for a process alone."""
        if self.process_group is None and not dist.is_initialized():
            return None
        parent = joined_group(self.process_group)
        ranks = dist.get_process_group_ranks(parent)
        is_all = len(ranks) == dist.get_world_size()
        try:
            return dist.new_group(
                ranks,
                timeout=timedelta(seconds=self.settings.timeout_s),
                backend=dist.get_backend_config(parent),
                use_local_synchronization=not is_all,
            )
        except RuntimeError as error:
            raise PeerError(
                f"not all of the {len(ranks)} processes came to their first vote within "
                f"{self.settings.timeout_s:g} s; every rank must have it: {error}"
            ) from error

    def _facts(self, params: VotedParams) -> dict[str, str]:
        """What must be alike on all processes."""
        facts = {name: repr(value) for name, value in self.settings.shared().items()}
        return facts | {
            "the iteration": str(self.iteration),
            "the model's parameters (a digest)": params.digest(),
            "the values of the parameters (a digest)": digest(params.all),
        }


def _check_fits(memory: Memory, settings: VoteSettings, params: VotedParams) -> None:
    for name, numel in memory_sizes(settings, params).items():
        found = memory[name].numel() if name in memory else 0
        if found != numel:
            raise SettingError(
                f"this state's {name} is of {found} elements; these parameters have {numel}"
            )


def _parts_of(state_dict: Any, names: Sequence[str]) -> tuple[dict[str, Any], Memory | None, int]:
    """Settings, memory of at least these names, and iteration of a saved state; raises SettingError
    for anything else."""
    if not isinstance(state_dict, dict) or not isinstance(state_dict.get("settings"), dict):
        raise SettingError("this state_dict has no settings: it is that of no vote")
    if not {"memory", "iteration"} <= set(state_dict):
        raise SettingError("this state_dict has no memory, or no iteration: it is that of no vote")
    memory = state_dict["memory"]
    if memory is not None and not _is_memory(memory, names):
        raise SettingError(
            f"this state_dict's memory is not float32 vectors named {', '.join(names)}"
        )
    iteration = check_integer("this state_dict's iteration", state_dict["iteration"], 0)
    return state_dict["settings"], memory, iteration


def _is_memory(memory: Any, names: Sequence[str]) -> bool:
    return (
        isinstance(memory, dict)
        and set(names) <= set(memory) <= {*names, EXEMPT_MOMENTUM}
        and all(
            isinstance(one, Tensor) and one.dtype == torch.float32 and one.ndim == 1
            for one in memory.values()
        )
    )

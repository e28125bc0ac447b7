"""A process's membership in the votes of a process group: settings, state, and the bytes."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compsgd.comm.exchange_choice import check_exchange, joined_group
from compsgd.comm.group.agreement import check_agreement
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.group_vote import EXEMPT_MOMENTUM, GroupVote, memory_sizes
from compsgd.comm.parameters import VotedParams
from compsgd.comm.traffic.cost import ring_all_reduce
from compsgd.comm.traffic.ledger import Ledger, Purpose
from compsgd.errors import PeerError, SettingError
from compsgd.kinds import (
    ANYTHING,
    COUNT,
    Fields,
    Flag,
    Optional,
    SavedSetting,
    TensorOf,
    does_not_fit,
)
from compsgd.settings import VoteSettings
from compsgd.voting.encoder import WorkerEncoder
from compsgd.voting.replicas import digest

Memory = dict[str, Tensor]
# In a hook's state: whether the vote is what happens, if that is decided.
PAYS = "pays"


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
        # Whose the memory is; None as long as there is none.
        self._rank: int | None = None
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
            SettingError: the parameters are not known, or the loaded state is another rank's.
            PeerError: processes disagree, or not all came.
        """
        if self._vote is None:
            if self.params is None:
                raise SettingError(
                    "this VoteState does not know the model's parameters: hand it "
                    "params=model.parameters(), or use compsgd.comm.register_vote_hook(ddp)"
                )
            own_rank = self._rank_here() or 0
            self._check_rank(self._saved, self._rank, own_rank)
            self._vote = GroupVote(self.settings, self.params, self._join(self.params))
            if self._saved is not None:
                self._vote.load_memory(self._saved)
            self._saved, self._rank = None, own_rank
        return self._vote

    def memory(self) -> Memory | None:
        """What this process remembers; None as long as there is nothing."""
        return self._saved if self._vote is None else self._vote.memory()

    def state_dict(self) -> dict[str, Any]:
        """This rank's: the iteration, the memory, and the rank and settings that they belong to."""
        return {
            "iteration": self.iteration,
            "rank": self._rank,
            "memory": self.memory(),
            "settings": self.settings.lasting(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` has saved on this rank; nothing changes if it does not fit.

        Raises:
            SettingError: of other settings, of other parameters, of another rank, or of something
                else.
        """
        with does_not_fit():
            _check_state(state_dict, self.settings)
            memory, rank = state_dict["memory"], state_dict["rank"]
            if memory is not None and self.params is not None:
                _check_fits(memory, self.settings, self.params)
            self._check_rank(memory, rank, self._rank_here())
        self.iteration = state_dict["iteration"]
        if self._vote is None:
            self._saved, self._rank = memory, rank
        else:
            self._vote.load_memory(memory)

    def _rank_here(self) -> int | None:
        """Among all processes, as every shard's group has the same ranks; None while there is no
        group, nor may ever be."""
        return dist.get_rank() if dist.is_initialized() else None

    @staticmethod
    def _check_rank(memory: Memory | None, rank: int | None, own_rank: int | None) -> None:
        """A range and a running mean are of one worker's gradients."""
        if memory is not None and own_rank is not None and rank != own_rank:
            raise SettingError(
                f"it is of rank {rank}, and this is rank {own_rank}: save one a rank, and give "
                "each rank its own"
            )

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
                f"the state's {name} is of {found} elements; these parameters have {numel}"
            )


def _check_state(state_dict: Any, settings: VoteSettings) -> None:
    """Raises MisfitError for anything but a saved state of such settings."""
    lasting = {name: SavedSetting(name, value) for name, value in settings.lasting().items()}
    of_settings = Fields(lasting, others=ANYTHING)
    # First: what else is in it depends on them.
    Fields({"settings": of_settings}, others=ANYTHING).check("", state_dict)
    vector = TensorOf((None,), [torch.float32])
    names = WorkerEncoder.state_names(settings)
    memory = Fields(dict.fromkeys(names, vector), {EXEMPT_MOMENTUM: vector})
    Fields(
        {
            "iteration": COUNT,
            "rank": Optional(COUNT),
            "memory": Optional(memory),
            "settings": of_settings,
        },
        {PAYS: Optional(Flag())},
    ).check("", state_dict)

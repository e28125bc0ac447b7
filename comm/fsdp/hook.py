"""Voted gradients between the replicas of a model that fully_shard (FSDP2) shards.

Within a replica FSDP averages gradients as ever, and leaves each process its shard; between
replicas, where the slow links are, the processes with the same shard vote on it.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from compsgd.comm.ddp.hook import VoteState
from compsgd.comm.ddp.outer_optimizer import warn_of_two_momenta
from compsgd.comm.parameters import ParamGradient
from compsgd.errors import SettingError
from compsgd.settings import FSDP_SETTINGS, check_known

log = logging.getLogger("compsgd")


def register_fsdp_vote_hook(
    model: nn.Module,
    replicas: DeviceMesh | dist.ProcessGroup,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    exempt: Iterable[Tensor] = (),
    **settings: Any,
) -> VoteState:
    """Lets replicas of a sharded model vote on its gradients; on every process alike.

    A worker of the vote is a replica: the processes that hold its shards. Each process votes on its
    own shard, with those of the other replicas that hold the same one; ranges and momentum are of
    the shard, too. `min_compress_numel` counts a shard's elements.

    Source:
        design, sections 2, 2b and 5.

    Args:
        model: fully_shard is applied over the processes of one replica: a mesh of one dimension.
        replicas: the processes that hold the same shard, one of each replica: the mesh's other
            dimension, or its process group.
        optimizer: what will move the parameters, if it is known: a warning says so if both it and
            the vote have momentum.
        exempt: parameters of the model that are averaged whatever their size, as large embeddings.
        settings: the keyword arguments of VoteState; process_group and params are the model's.

    Returns:
        this process's state: `ledger`, `summary()`, `state_dict()`.

    Raises:
        SettingError: no module that fully_shard has been applied to; one that is replicated by FSDP
            itself, or one that holds parameters of several meshes; a setting that is none.

    Examples:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from torch.distributed.device_mesh import init_device_mesh
        >>> from torch.distributed.fsdp import fully_shard
        >>> from compsgd.comm.fsdp import register_fsdp_vote_hook
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("replica", "shard"))
        >>> model = fully_shard(torch.nn.Linear(3, 1, bias=False), mesh=mesh["shard"])
        >>> state = register_fsdp_vote_hook(model, mesh["replica"], num_bits=3)
        >>> model(torch.tensor([[0.5, -0.1, 2.0]])).sum().backward()
        >>> model.weight.grad.to_local().tolist()  # at first each gradient is its own range
        [[4.0, -4.0, 4.0]]
        >>> dist.destroy_process_group()
    """
    check_known("register_fsdp_vote_hook", FSDP_SETTINGS, set(settings) - {"vote_settings"})
    modules = _trained_modules(model)
    shard_of = {id(one): shard for module in modules for one, shard in module.shards}
    # What has no shard here, the state refuses.
    exempt_shards = [shard_of.get(id(one), one) for one in exempt]
    group = replicas.get_group() if isinstance(replicas, DeviceMesh) else replicas
    state = VoteState(group, list(shard_of.values()), exempt=exempt_shards, **settings)
    vote = _ReplicaVote(state, len(modules))
    for module in modules:
        try:
            module.fsdp.set_all_reduce_hook(vote.hook(module))
        except ValueError as error:
            raise SettingError(f"a module takes no hook: {error}") from error
    if optimizer is not None:
        warn_of_two_momenta(state.settings, optimizer)
    return state


@dataclass(frozen=True)
class _ShardedModule:
    """One that fully_shard was applied to.

    Attributes:
        shards: its own trained parameters, in its order, and what this process holds of each.
        padded_sizes: what FSDP pads each of these to.
    """

    fsdp: FSDPModule
    shards: list[tuple[DTensor, Tensor]]
    padded_sizes: list[int]

    def parts_of(self, flat: Tensor) -> list[Tensor]:
        """The gradients of its shards.

        Args:
            flat: one behind the other, each padded to the largest of all processes.

        Raises:
            SettingError: it is not of all parameters, or will be divided behind the vote.
        """
        if flat.dtype not in (torch.float32, torch.bfloat16):
            raise SettingError(
                f"gradients are reduced in {flat.dtype}, which FSDP divides once more behind the "
                "vote: take a reduce_dtype of float32 or bfloat16"
            )
        numel = sum(self.padded_sizes)
        if flat.numel() != numel:
            raise SettingError(
                f"a module's shard has {numel:,} elements, and the gradient "
                f"{flat.numel():,}: some parameter got none, or was frozen or released behind "
                "register_fsdp_vote_hook; the vote needs the gradients of all (FSDP's "
                "set_reduce_scatter_unused_params(True))"
            )
        return [
            part[: shard.numel()].view(shard.shape)
            for part, (_, shard) in zip(flat.split(self.padded_sizes), self.shards, strict=True)
        ]


class _ReplicaVote:
    """Overwrites the gradients of one module after the other, in backward's order."""

    def __init__(self, state: VoteState, num_modules: int) -> None:
        self._membership = state.membership
        self._num_modules = num_modules
        # The identities of those that have voted in this step.
        self._voted: set[int] = set()
        self._has_told = False

    def hook(self, module: _ShardedModule) -> Callable[[Tensor], None]:
        """FSDP calls it with the flat gradient of the module's shards, in backward's thread."""

        def vote(flat: Tensor) -> None:
            if id(module) in self._voted:
                # A backward has begun, and the last one did without some module.
                self._end_step()
            self._warn_of_earlier_votes(module)
            self._vote_on(module, flat)
            self._voted.add(id(module))
            if len(self._voted) == self._num_modules:
                self._end_step()

        return vote

    def _vote_on(self, module: _ShardedModule, flat: Tensor) -> None:
        vote = self._membership.connect()
        params = self._membership.params
        assert params is not None, "connect has checked"
        gradients = [
            ParamGradient(part, params.place(shard), is_present=True)
            for part, (_, shard) in zip(module.parts_of(flat), module.shards, strict=True)
        ]
        vote.take(gradients, self._round)

    @property
    def _round(self) -> int:
        return self._membership.iteration - self._membership.settings.start_vote_iter

    def _end_step(self) -> None:
        self._membership.connect().end_step(self._round)
        self._membership.iteration += 1
        self._voted = set()

    def _warn_of_earlier_votes(self, module: _ShardedModule) -> None:
        if self._has_told or all(parameter.grad is None for parameter, _ in module.shards):
            return
        self._has_told = True
        log.warning(
            "gradients of this step are added to those of an earlier vote: clear them with "
            "zero_grad(), and use set_requires_gradient_sync(False) for all but the last "
            "backward before optimizer.step() (reported once)"
        )


def _trained_modules(model: nn.Module) -> list[_ShardedModule]:
    """Those that fully_shard was applied to and that train something, in the model's order.

    Raises:
        SettingError: there is none.
    """
    is_module = isinstance(model, nn.Module)
    modules = [one for one in model.modules() if isinstance(one, FSDPModule)] if is_module else []
    if not modules:
        raise SettingError(
            "register_fsdp_vote_hook takes a model that fully_shard was applied to, and got a "
            f"{type(model).__name__} without a sharded module inside"
        )
    claimed: set[int] = set()
    found = []
    # fully_shard leaves an outer module what its inner ones have not taken.
    for module in reversed(modules):
        assert isinstance(module, nn.Module), "FSDPModule is mixed into modules"
        own = [one for one in module.parameters() if id(one) not in claimed]
        claimed |= {id(one) for one in own}
        shards = [_local(one) for one in own if one.requires_grad]
        if shards:
            padded_sizes = [_padded_size(parameter) for parameter, _ in shards]
            found.append(_ShardedModule(module, shards, padded_sizes))
    return found[::-1]


def _local(parameter: Tensor) -> tuple[DTensor, Tensor]:
    """The parameter, and this process's shard of it, in the same memory.

    Raises:
        SettingError: FSDP replicates it, too, or shards another dimension than the first; or does
            not shard it.
    """
    placements = parameter.placements if isinstance(parameter, DTensor) else ()
    if len(placements) != 1 or not placements[0].is_shard(0):
        raise SettingError(
            f"a parameter has the placements {tuple(map(str, placements))}; the vote takes "
            'fully_shard over a mesh of one dimension, as mesh["shard"], with parameters cut '
            "along their first: replicating is what the vote does"
        )
    assert isinstance(parameter, DTensor), "it has a placement"
    with torch.no_grad():
        return parameter, parameter.to_local().detach().requires_grad_()


def _padded_size(parameter: DTensor) -> int:
    """Elements of the largest shard of it: FSDP pads all of them to that."""
    rows = -(-parameter.shape[0] // parameter.device_mesh.size())
    return rows * parameter.shape[1:].numel()

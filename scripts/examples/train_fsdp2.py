"""Replicas of a model that fully_shard (FSDP2) shards vote on its gradients: a script to copy.

torchrun --nproc_per_node 4 scripts/examples/train_fsdp2.py --replicas 2

Within a replica, as on one machine, FSDP averages in float32; between replicas, as between
machines, 3 bits an element travel.
"""

from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from compsgd.comm import VoteState
from compsgd.comm.fsdp import register_fsdp_vote_hook


def sharded_model(mesh: DeviceMesh) -> nn.Module:
    torch.manual_seed(0)  # all replicas start alike
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(4)]
    model = nn.Sequential(nn.Linear(16, 64), *blocks, nn.Linear(64, 2)).to(mesh.device_type)
    for block in blocks:
        fully_shard(block, mesh=mesh["shard"])
    return fully_shard(model, mesh=mesh["shard"])


def state_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, votes: VoteState
) -> dict[str, Any]:
    """For torch.distributed.checkpoint."""
    weights, moments = get_state_dict(model, optimizer)
    # Ranges and running means are of this process's shards, and are saved under a name of its own.
    return {
        "weights": weights,
        "moments": moments,
        f"votes of rank {dist.get_rank()}": votes.state_dict(),
    }


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, votes: VoteState
) -> None:
    votes.connect()  # so that there is memory to load into
    saved = state_of(model, optimizer, votes)
    dcp.load(saved, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=saved["weights"], optim_state_dict=saved["moments"]
    )
    votes.load_state_dict(saved[f"votes of rank {dist.get_rank()}"])


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, device: str, step: int) -> float:
    """On a batch of this process's own: which half of a vector is larger."""
    generator = torch.Generator().manual_seed(step * dist.get_world_size() + dist.get_rank())
    inputs = torch.randn(32, 16, generator=generator)
    labels = (inputs[:, :8].sum(dim=1) > inputs[:, 8:].sum(dim=1)).long()
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs.to(device)), labels.to(device))
    loss.backward()
    optimizer.step()
    return loss.item()


@click.command()
@click.option("--replicas", type=int, default=2, show_default=True)
@click.option("--steps", type=int, default=100, show_default=True)
@click.option("--save", "save_to", type=click.Path(path_type=Path), help="A new folder.")
@click.option("--load", "load_from", type=click.Path(path_type=Path, exists=True))
def main(replicas: int, steps: int, save_to: Path | None, load_from: Path | None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
    shape = replicas, dist.get_world_size() // replicas
    mesh = init_device_mesh(device, shape, mesh_dim_names=("replica", "shard"))
    model = sharded_model(mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.0, 0.99))
    votes = register_fsdp_vote_hook(
        model, mesh["replica"], optimizer=optimizer, num_bits=3, scale="mean_abs", momentum=0.9,
        decay_min=0.99, decay_max=0.99, exempt_1d=True,
    )  # fmt: skip
    if load_from is not None:
        load(load_from, model, optimizer, votes)
    for step in range(votes.iteration, steps):
        loss = train_step(model, optimizer, device, step)
        if dist.get_rank() == 0 and (step + 1) % 20 == 0:
            print(f"step {step + 1}: loss {loss:.3f}", flush=True)
    if save_to is not None:
        dcp.save(state_of(model, optimizer, votes), checkpoint_id=save_to)
    if dist.get_rank() == 0:
        print(votes.summary())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

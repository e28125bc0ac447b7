"""An ordinary DistributedDataParallel script, and what two lines of compsgd change in it.

torchrun --nproc_per_node 2 scripts/examples/train_ddp.py --hook vote

ResNet-18 on CIFAR-10, or on random images of its shape; SGD with momentum, a cosine schedule,
checkpoints, and going on from them. --hook says how gradients are exchanged.
"""

import os
import time
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision import transforms

from compsgd.comm import VoteState, register_vote_hook

MOMENTUM = 0.9


def register(ddp: DistributedDataParallel, hook: str, num_bits: int) -> VoteState | None:
    if hook == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif hook == "powersgd":
        state = powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif hook == "vote":
        return register_vote_hook(
            ddp, num_bits=num_bits, scale="mean_abs", exempt_1d=True, momentum=MOMENTUM,
            decay_min=0.99, decay_max=0.99,
        )  # fmt: skip
    return None


def sgd(ddp: DistributedDataParallel, hook: str, lr: float) -> torch.optim.SGD:
    """With the vote, the momentum is in the vote: a running mean of gradients, where that of SGD is
    a running sum, 1 / (1 - momentum) as large."""
    if hook == "vote":
        return torch.optim.SGD(ddp.parameters(), lr / (1 - MOMENTUM), weight_decay=5e-4)
    return torch.optim.SGD(ddp.parameters(), lr, momentum=MOMENTUM, weight_decay=5e-4)


def data_set(root: Path | None, num_images: int) -> "Dataset[object]":
    to_tensor = transforms.ToTensor()
    if root is None:
        return torchvision.datasets.FakeData(num_images, (3, 32, 32), 10, to_tensor)
    if dist.get_rank() == 0:
        torchvision.datasets.CIFAR10(str(root), download=True)
    dist.barrier()
    return torchvision.datasets.CIFAR10(str(root), transform=to_tensor)


def train_epoch(
    ddp: DistributedDataParallel,
    loader: "DataLoader[object]",
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> float:
    """Returns the mean loss of this process."""
    total = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(ddp(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def save(
    path: Path, saved: dict[str, object], state: VoteState | None, device: torch.device
) -> None:
    """One file of all ranks: each has a range of its own for its votes."""
    votes = None if state is None else votes_of_all(state, device)
    if dist.get_rank() == 0:
        written = path.with_suffix(".new")
        torch.save(saved | {"votes": votes}, written)
        written.replace(path)


def votes_of_all(state: VoteState, device: torch.device) -> list[dict[str, Any]]:
    """The state_dicts by rank, on rank 0; they differ in the rank and the tensors of their memory.
    What is gathered are tensors: gather_object unpickles what others send, and that may run
    anything."""
    own = state.state_dict()
    memory = {name: gather(values.to(device)) for name, values in own["memory"].items()}
    return [
        own | {"rank": rank, "memory": {name: ranks[rank].cpu() for name, ranks in memory.items()}}
        for rank in range(dist.get_world_size() if dist.get_rank() == 0 else 0)
    ]


def gather(values: torch.Tensor) -> list[torch.Tensor]:
    """Those of all ranks, on rank 0."""
    is_here = dist.get_rank() == 0
    found = [torch.empty_like(values) for _ in range(dist.get_world_size())] if is_here else []
    dist.gather(values, found or None)
    return found


def load(path: Path, parts: dict[str, Any], state: VoteState | None, device: torch.device) -> int:
    """Returns the epoch to go on with."""
    if not path.exists():
        raise click.UsageError(f"--resume: there is no checkpoint {path}")
    saved = torch.load(path, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    votes = saved["votes"]
    if state is not None and votes is not None:
        # A rank that was not there before starts with a range that has seen nothing.
        fresh = votes[0] | {"memory": None}
        state.load_state_dict((votes + [fresh] * dist.get_world_size())[dist.get_rank()])
    return int(saved["epoch"])


@click.command()
@click.option(
    "--hook",
    type=click.Choice(["none", "fp16", "powersgd", "vote"]),
    default="vote",
    show_default=True,
)
@click.option("--num_bits", type=click.IntRange(1, 8), default=3, show_default=True)
@click.option("--data_root", type=click.Path(path_type=Path), default=None,
              help="Where CIFAR-10 is, or is to be; without it, random images.")  # fmt: skip
@click.option("--num_images", default=512, show_default=True, help="Random ones.")
@click.option("--epochs", default=3, show_default=True)
@click.option("--batch_size", default=32, show_default=True, help="Of each process.")
@click.option("--lr", default=0.005, show_default=True)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    default=Path("train_ddp.pt"),
    show_default=True,
    help="Written after every epoch.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
def main(
    hook: str, num_bits: int, data_root: Path | None, num_images: int, epochs: int,
    batch_size: int, lr: float, checkpoint: Path, resume: bool,
) -> None:  # fmt: skip
    """Trains; a line an epoch."""
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank, local_rank = dist.get_rank(), int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    images = data_set(data_root, num_images)
    sampler: DistributedSampler[object] = DistributedSampler(images)
    loader = DataLoader(images, batch_size, sampler=sampler, drop_last=True)
    if not len(loader):
        raise click.UsageError(f"{len(sampler)} images a process are no batch of {batch_size}")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).to(device)
    # torch's PowerSGD needs one bucket over gloo.
    bucket_cap_mb = 1000 if hook == "powersgd" else 25
    devices = [local_rank] if on_gpu else None
    ddp = DistributedDataParallel(model, device_ids=devices, bucket_cap_mb=bucket_cap_mb)
    state = register(ddp, hook, num_bits)
    optimizer = sgd(ddp, hook, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first = load(checkpoint, parts, state, device) if resume else 0
    for epoch in range(first, epochs):
        began = time.perf_counter()
        sampler.set_epoch(epoch)
        loss = train_epoch(ddp, loader, optimizer, device)
        schedule.step()
        saved = {name: part.state_dict() for name, part in parts.items()}
        save(checkpoint, {"epoch": epoch + 1} | saved, state, device)
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss:.4f}, {time.perf_counter() - began:.1f} s",
                  flush=True)  # fmt: skip
    if state is not None and rank == 0:
        print(state.summary())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

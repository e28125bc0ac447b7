"""An ordinary DistributedDataParallel script, and what one line of compsgd changes in it.

torchrun --nproc_per_node 2 scripts/train_ddp.py --hook vote

ResNet-18 on CIFAR-10 (or on random images of its shape), SGD with momentum, a cosine schedule,
checkpoints, and going on from them. --hook says how gradients are exchanged.
"""

import time
from pathlib import Path

import click
import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision import transforms

from compsgd.comm import VoteState, wrap

HOOKS = ("none", "fp16", "powersgd", "vote")


def data_set(root: Path | None, num_images: int) -> "Dataset[object]":
    to_tensor = transforms.ToTensor()
    if root is None:
        return torchvision.datasets.FakeData(num_images, (3, 32, 32), 10, to_tensor)
    return torchvision.datasets.CIFAR10(str(root), train=True, transform=to_tensor, download=True)


def register_hook(ddp: DistributedDataParallel, hook: str, num_bits: int) -> VoteState | None:
    if hook == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif hook == "powersgd":
        # It needs all gradients in one bucket on gloo; see main.
        state = powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif hook == "vote":
        return wrap(ddp, num_bits=num_bits, scale="mean_abs", exempt_1d=True)
    return None


def train_epoch(
    ddp: DistributedDataParallel, loader: "DataLoader[object]", optimizer: torch.optim.Optimizer
) -> float:
    total = torch.zeros(2)
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(ddp(images), labels)
        loss.backward()
        optimizer.step()
        total += torch.tensor([loss.item(), 1.0])
    dist.all_reduce(total)
    return float(total[0] / total[1])


@click.command()
@click.option("--hook", type=click.Choice(HOOKS), default="vote", show_default=True)
@click.option("--num_bits", type=click.IntRange(1, 8), default=3, show_default=True)
@click.option("--data_root", type=click.Path(path_type=Path), default=None,
              help="Where CIFAR-10 is; random images without it.")  # fmt: skip
@click.option("--num_images", type=int, default=512, show_default=True, help="Random ones.")
@click.option("--epochs", type=int, default=2, show_default=True)
@click.option("--batch_size", type=int, default=32, show_default=True)
@click.option("--lr", type=float, default=0.05, show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), default=Path("train_ddp"))
@click.option("--resume", is_flag=True)
def main(
    hook: str,
    num_bits: int,
    data_root: Path | None,
    num_images: int,
    epochs: int,
    batch_size: int,
    lr: float,
    checkpoint: Path,
    resume: bool,
) -> None:
    """Trains, one line an epoch."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    images = data_set(data_root, num_images)
    sampler: DistributedSampler[object] = DistributedSampler(images)
    loader = DataLoader(images, batch_size, sampler=sampler)
    model = torchvision.models.resnet18(num_classes=10)
    bucket_cap_mb = 1000 if hook == "powersgd" else 25
    ddp = DistributedDataParallel(model, bucket_cap_mb=bucket_cap_mb)
    state = register_hook(ddp, hook, num_bits)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    # A range belongs to its rank: each has a file of its own.
    path = checkpoint.with_suffix(f".rank{rank}.pt")
    first = 0
    if resume:
        saved = torch.load(path, weights_only=True)
        first = saved["epoch"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        if state is not None:
            state.load_state_dict(saved["vote"])
    for epoch in range(first, epochs):
        began = time.perf_counter()
        sampler.set_epoch(epoch)
        loss = train_epoch(ddp, loader, optimizer)
        schedule.step()
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss:.4f}, {time.perf_counter() - began:.1f} s")
        saved = {
            "epoch": epoch + 1,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "vote": None if state is None else state.state_dict(),
        }
        written = path.with_suffix(".new")
        torch.save(saved, written)
        written.replace(path)
    if state is not None and rank == 0:
        print(state.summary())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

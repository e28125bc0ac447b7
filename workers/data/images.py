"""Data sets as tensors in memory, and which batch goes to which worker."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compsgd.rng import derive_key
from compsgd.workers.data.data_files import check_data_files
from compsgd.workers.failures import RunError, UsageError


@dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
        images: uint8, shape (n, channels, height, width).
        labels: int64, shape (n,).
        largest: the pixel value that becomes 1.0.
    """

    images: Tensor
    labels: Tensor
    largest: int

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images as float32 in [0, 1], and labels."""
        images = self.images[index].to(device, torch.float32).div_(self.largest)
        return images, self.labels[index].to(device)


@dataclass(frozen=True)
class Dataset:
    train: Split
    test: Split
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def load_dataset(name: str, root: Path, download: bool) -> Dataset:
    """Loads a data set of DATASETS.

    Args:
        name: which one.
        root: the folder that torchvision keeps its files in; `digits` needs none.
        download: whether files that are missing may be downloaded, verified and unpacked there.

    Raises:
        UsageError: it is not there and must not be downloaded.
        RunError: the download failed, or a file is damaged.
    """
    return _LOADERS[name](root, download)


def _digits(root: Path, download: bool) -> Dataset:
    # Seconds that other data sets should not cost; so is torchvision below.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    # A fixed split, the same for every seed, so that runs can be compared.
    train_images, test_images, train_labels, test_labels = train_test_split(
        images,
        digits.target.astype(np.int64),
        test_size=0.2,
        random_state=0,
        stratify=digits.target,
    )
    return Dataset(
        Split(torch.from_numpy(train_images), torch.from_numpy(train_labels), largest=16),
        Split(torch.from_numpy(test_images), torch.from_numpy(test_labels), largest=16),
        NUM_CLASSES,
    )


def _torchvision_loader(name: str) -> Callable[[Path, bool], Dataset]:
    def load(root: Path, download: bool) -> Dataset:
        import torchvision

        source = getattr(torchvision.datasets, name)
        train, test = (_read(source, name, root, part, download) for part in (True, False))
        check_data_files(name, root)
        return Dataset(_as_split(train), _as_split(test), NUM_CLASSES)

    return load


def _read(source: Any, name: str, root: Path, train: bool, download: bool) -> Any:
    """A torchvision data set; what can go wrong on the way is one clear line."""
    try:
        return source(root, train=train, download=download)
    except Exception as error:  # torchvision documents none: RuntimeError, OSError, EOFError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        if not download:
            raise UsageError(
                f"{name} is not complete in {root.resolve()} ({reason}); name its folder with "
                "--dataset_root or allow --download true"
            ) from error
        raise RunError(
            f"{name} could not be downloaded to, verified or unpacked in {root.resolve()}: {reason}"
        ) from error


def _as_split(source: Any) -> Split:
    images = torch.as_tensor(source.data)
    # (n, height, width) or (n, height, width, channels)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.as_tensor(source.targets, dtype=torch.int64), largest=255)


_LOADERS: dict[str, Callable[[Path, bool], Dataset]] = {
    "digits": _digits,
    "MNIST": _torchvision_loader("MNIST"),
    "FashionMNIST": _torchvision_loader("FashionMNIST"),
    "CIFAR10": _torchvision_loader("CIFAR10"),
}
DATASETS = tuple(_LOADERS)
IMAGE_SHAPES = {
    "digits": (1, 8, 8),
    "MNIST": (1, 28, 28),
    "FashionMNIST": (1, 28, 28),
    "CIFAR10": (3, 32, 32),
}
NUM_CLASSES = 10


@dataclass(frozen=True)
class BatchPlan:
    """Which images are in batch i of an epoch; batch i goes to worker i mod N."""

    num_images: int
    batch_size: int
    num_workers: int
    seed: int
    shuffle: bool

    @property
    def num_batches(self) -> int:
        return -(-self.num_images // self.batch_size)

    @property
    def num_rounds(self) -> int:
        return -(-self.num_batches // self.num_workers)

    @property
    def smallest_batch(self) -> int:
        return self.num_images - (self.num_batches - 1) * self.batch_size

    def order(self, epoch: int) -> Tensor:
        """The images of an epoch in their order; int64, shape (num_images,)."""
        if not self.shuffle:
            return torch.arange(self.num_images)
        generator = torch.Generator().manual_seed(derive_key(self.seed, "shuffle", epoch))
        return torch.randperm(self.num_images, generator=generator)

    def batch(self, order: Tensor, round_: int, worker: int) -> Tensor | None:
        """The images of a worker's batch in a round of the epoch, or None if none is left."""
        index = round_ * self.num_workers + worker
        if index >= self.num_batches:
            return None
        return order[index * self.batch_size : (index + 1) * self.batch_size]

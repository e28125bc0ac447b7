"""Data sets of labelled images as tensors in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compsgd.workers.data.data_files import check_data_files
from compsgd.workers.data.splits import Dataset, ImageFormat, sha256_of
from compsgd.workers.failures import RunError, UsageError

NUM_CLASSES = 10


@dataclass(frozen=True)
class ImageSplit:
    """Labelled images.

    Attributes:
        images: uint8, shape (n, channels, height, width).
        labels: int64, shape (n,).
        largest: the pixel value that becomes 1.0.
    """

    images: Tensor
    labels: Tensor
    largest: int
    counted = "images"

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images as float32 in [0, 1], and labels."""
        images = self.images[index].to(device, torch.float32).div_(self.largest)
        return images, self.labels[index].to(device)

    def evaluated(self) -> Tensor:
        return torch.arange(len(self))

    def digest(self) -> str:
        return sha256_of(self.images, self.labels)


def load_digits(root: Path, download: bool) -> Dataset:
    """Those of scikit-learn, which come with it."""
    # Seconds that other data sets should not cost; so is torchvision below.
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    # A fixed split, the same for every seed, so that runs can be compared.
    train_images, test_images, train_labels, test_labels = train_test_split(
        images,
        digits.target.astype(np.int64),
        test_size=0.2,
        random_state=0,
        stratify=digits.target,
    )
    return _dataset(
        ImageSplit(torch.from_numpy(train_images), torch.from_numpy(train_labels), largest=16),
        ImageSplit(torch.from_numpy(test_images), torch.from_numpy(test_labels), largest=16),
    )


def torchvision_loader(name: str) -> Callable[[Path, bool], Dataset]:
    """What loads a data set of torchvision.

    Args:
        name: of its class.
    """

    def load(root: Path, download: bool) -> Dataset:
        import torchvision

        source = getattr(torchvision.datasets, name)
        train, test = (_read(source, name, root, part, download) for part in (True, False))
        check_data_files(name, root)
        return _dataset(_as_split(train), _as_split(test))

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


def _as_split(source: Any) -> ImageSplit:
    images = torch.as_tensor(source.data)
    # (n, height, width) or (n, height, width, channels)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return ImageSplit(images, torch.as_tensor(source.targets, dtype=torch.int64), largest=255)


def _dataset(train: ImageSplit, test: ImageSplit) -> Dataset:
    channels, height, width = train.images.shape[1:]
    return Dataset(train, test, ImageFormat((channels, height, width), NUM_CLASSES))

"""Data sets of labelled images as tensors in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compsgd.workers.data.idx_files import missing_files, read_labelled_images
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


def idx_loader(name: str) -> Callable[[Path, bool], Dataset]:
    """What loads a data set of files as MNIST has them, where they lie; torchvision downloads them.

    Args:
        name: of IDX_DATASETS.
    """

    def load(root: Path, download: bool) -> Dataset:
        missing = missing_files(name, root)
        if missing and not download:
            raise _not_complete(name, root, f"there is no {missing[0].name}")
        if missing:
            _from_torchvision(name, root, True, download)
        train, test = (_labelled(*read_labelled_images(name, root, part)) for part in _IDX_PARTS)
        return _dataset(train, test)

    return load


_IDX_PARTS = ("train", "t10k")


def torchvision_loader(name: str, num_classes: int) -> Callable[[Path, bool], Dataset]:
    """What loads a data set of torchvision, which checks each of its files.

    Args:
        name: of its class.
        num_classes: of its images.
    """

    def load(root: Path, download: bool) -> Dataset:
        train, test = (_from_torchvision(name, root, part, download) for part in (True, False))
        return _dataset(_as_split(train), _as_split(test), num_classes)

    return load


def _from_torchvision(name: str, root: Path, train: bool, download: bool) -> Any:
    """A torchvision data set; what can go wrong on the way is one clear line."""
    import torchvision

    source = getattr(torchvision.datasets, name)
    try:
        return source(root, train=train, download=download)
    except Exception as error:  # torchvision documents none: RuntimeError, OSError, EOFError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = _damaged_file(source, root) or reason
        if not download:
            raise _not_complete(name, root, reason) from error
        raise RunError(
            f"{name} could not be downloaded to, verified or unpacked in {root.resolve()}: "
            f"{reason}; --dataset_root names a folder that has it"
        ) from error


def _not_complete(name: str, root: Path, reason: str) -> UsageError:
    return UsageError(
        f"{name} is not complete in {root.resolve()} ({reason}); name its folder with "
        "--dataset_root or allow --download true"
    )


def _damaged_file(source: Any, root: Path) -> str:
    """Which file of a data set of batches it is, where torchvision does not say."""
    from torchvision.datasets.utils import check_integrity

    for file, md5 in (*getattr(source, "train_list", ()), *getattr(source, "test_list", ())):
        path = root / source.base_folder / file
        if path.exists() and not check_integrity(str(path), md5):
            return f"{path} is damaged; delete it"
    return ""


def _as_split(source: Any) -> ImageSplit:
    images = torch.as_tensor(source.data)
    # (n, height, width, channels)
    images = images.permute(0, 3, 1, 2).contiguous()
    return ImageSplit(images, torch.as_tensor(source.targets, dtype=torch.int64), largest=255)


def _labelled(images: Tensor, labels: Tensor) -> ImageSplit:
    """Of images of one channel, shape (n, height, width)."""
    return ImageSplit(images.unsqueeze(1), labels, largest=255)


def _dataset(train: ImageSplit, test: ImageSplit, num_classes: int = NUM_CLASSES) -> Dataset:
    channels, height, width = train.images.shape[1:]
    return Dataset(train, test, ImageFormat((channels, height, width), num_classes))

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


_DIGITS = Path(__file__).parent / "digits.npz"


def load_digits(root: Path, download: bool) -> Dataset:
    """1,797 images of 8 x 8 handwritten digits, which come with compsgd; a fifth is held out.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository (CC BY 4.0), as scikit-learn has it and its train_test_split splits it
    (`tests/unit/test_data.py`); importing that for them would take seconds of every process.
    """
    with np.load(_DIGITS, allow_pickle=False) as file:
        train, test = (
            ImageSplit(
                torch.from_numpy(file[f"{part}_images"])[:, None],
                torch.from_numpy(file[f"{part}_labels"]).to(torch.int64),
                largest=16,
            )
            for part in ("train", "test")
        )
        return _dataset(train, test)


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

"""The data sets by their names, and which batch goes to which worker."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compsgd.rng import derive_key
from compsgd.workers.data.idx_files import IDX_DATASETS
from compsgd.workers.data.images import NUM_CLASSES, idx_loader, load_digits, torchvision_loader
from compsgd.workers.data.items import load_folder, load_own
from compsgd.workers.data.splits import Dataset, ImageFormat
from compsgd.workers.data.stdlib import load_stdlib
from compsgd.workers.data.text import load_text
from compsgd.workers.options import FOLDER, Options
from compsgd.workers.own_code import is_own

_NUM_FINE_CLASSES = 100

_IMAGES: dict[str, Callable[[Path, bool], Dataset]] = {
    "digits": load_digits,
    **{name: idx_loader(name) for name in IDX_DATASETS},
    "CIFAR10": torchvision_loader("CIFAR10", NUM_CLASSES),
    "CIFAR100": torchvision_loader("CIFAR100", _NUM_FINE_CLASSES),
}
_TEXTS: dict[str, Callable[[Path, int], Dataset]] = {"text": load_text, "stdlib": load_stdlib}
TEXTS = tuple(_TEXTS)
DATASETS = (*_IMAGES, FOLDER, *TEXTS)
IMAGE_FORMATS = {
    "digits": ImageFormat((1, 8, 8), NUM_CLASSES),
    "MNIST": ImageFormat((1, 28, 28), NUM_CLASSES),
    "FashionMNIST": ImageFormat((1, 28, 28), NUM_CLASSES),
    "CIFAR10": ImageFormat((3, 32, 32), NUM_CLASSES),
    "CIFAR100": ImageFormat((3, 32, 32), _NUM_FINE_CLASSES),
}


def load_dataset(
    name: str,
    root: Path,
    download: bool,
    context: int | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Loads a data set of DATASETS, or a user's own.

    Args:
        name: which one, or the module:factory that makes it.
        root: the folder that torchvision keeps its files in; of `folder` that of train and test; of
            `text` the file, or the folder of files; `digits` and `stdlib` need none.
        download: whether files that are missing may be downloaded, verified and unpacked there.
        context: how many characters a sequence of text has; images need none.
        image_size: of `folder`; see load_folder.

    Raises:
        UsageError: it is not there and must not be downloaded; a text that cannot be read, or is
            too short.
        RunError: the download failed, or a file is damaged.
    """
    if is_own(name):
        return load_own(name, root)
    if name == FOLDER:
        return load_folder(root, image_size)
    if name in _IMAGES:
        return _IMAGES[name](root, download)
    assert context is not None, "a text is cut into sequences"
    return _TEXTS[name](root, context)


def dataset_of(options: Options, download: bool) -> Dataset:
    """The data set of a run; raises as load_dataset."""
    return load_dataset(
        options.dataset, options.dataset_root, download, options.context, options.image_size
    )


@dataclass(frozen=True)
class BatchPlan:
    """Which items are in batch i of an epoch; batch i goes to worker i mod N.

    Attributes:
        batch_size: items of a batch; the last one may have fewer.
    """

    num_items: int
    batch_size: int
    num_workers: int
    seed: int
    shuffle: bool

    @property
    def num_batches(self) -> int:
        return -(-self.num_items // self.batch_size)

    @property
    def num_rounds(self) -> int:
        return -(-self.num_batches // self.num_workers)

    def order(self, epoch: int) -> Tensor:
        """The items of an epoch in their order; int64, shape (num_items,)."""
        if not self.shuffle:
            return torch.arange(self.num_items)
        generator = torch.Generator().manual_seed(derive_key(self.seed, "shuffle", epoch))
        return torch.randperm(self.num_items, generator=generator)

    def batch(self, order: Tensor, round_: int, worker: int) -> Tensor | None:
        """The items of a worker's batch in a round of the epoch, or None if none is left."""
        index = round_ * self.num_workers + worker
        if index >= self.num_batches:
            return None
        return order[index * self.batch_size : (index + 1) * self.batch_size]

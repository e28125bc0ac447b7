"""Data sets of a user: items one by one, as torch.utils.data has them, and folders of images."""

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from compsgd.workers.data.splits import Dataset, ImageFormat, ItemFormat, sha256_of
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.own_code import call, find_factory, told

_NUM_DIGESTED = 64
_INTEGER = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_PARTS = {"train": ("train",), "test": ("test", "val", "validation")}


class Items(Protocol):
    """What torch.utils.data calls a map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ItemSplit:
    """Items that are taken one by one whenever they are needed."""

    counted = "items"

    def __init__(
        self,
        items: Items,
        name: str,
        num_classes: int,
        digest: Callable[[], str] | None = None,
        remedy: str = "",
    ) -> None:
        """
        Args:
            items: of which item i is an input and a class, or a class for every place of it.
            name: in words, for errors.
            num_classes: which are told apart.
            digest: of all of them; of some, evenly spaced, if that is not given.
            remedy: what to do about inputs of other shapes.
        """
        self._items = items
        self._name = name
        self._num_classes = num_classes
        self._digest = digest
        self._remedy = remedy

    def __len__(self) -> int:
        return len(self._items)

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Input and class of an item.

        Raises:
            RunError: it cannot be had, or is something else.
        """
        try:
            found = self._items[index]
        except Exception as error:
            raise RunError(f"item {index} of the {self._name} fails: {told(error)}") from error
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise RunError(
                f"item {index} of the {self._name} is a {type(found).__name__}; it must be a pair, "
                "an input and its class"
            )
        value, label = found
        if not isinstance(value, Tensor):
            raise RunError(
                f"item {index} of the {self._name} begins with a {type(value).__name__}; its input "
                "must be a tensor (of an image, torchvision.transforms.ToTensor() makes one)"
            )
        classes = torch.as_tensor(label) if isinstance(label, (int, np.integer, Tensor)) else None
        if classes is None or classes.dtype not in _INTEGER:
            raise RunError(
                f"item {index} of the {self._name} ends with a {type(label).__name__}; its class "
                "must be an integer, or a tensor of integers"
            )
        if not bool(((classes >= 0) & (classes < self._num_classes)).all()):
            raise RunError(
                f"item {index} of the {self._name} has class {label}; there are "
                f"{self._num_classes}, from 0 to {self._num_classes - 1}"
            )
        return value, classes.to(torch.int64)

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        inputs, labels = zip(*(self.item(one) for one in index.tolist()), strict=True)
        return self._stacked(inputs, index).to(device), self._stacked(labels, index).to(device)

    def evaluated(self) -> Tensor:
        return torch.arange(len(self))

    def digest(self) -> str:
        if self._digest is not None:
            return self._digest()
        some = np.linspace(0, len(self) - 1, min(len(self), _NUM_DIGESTED)).round().astype(int)
        parts = [str(len(self))]
        for index in some.tolist():
            # Whoever asks for an item at random gets the same one everywhere.
            seed_everything(index)
            parts.append(sha256_of(*self.item(index)))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _stacked(self, tensors: Sequence[Tensor], index: Tensor) -> Tensor:
        first = tensors[0]
        for one, number in zip(tensors, index.tolist(), strict=True):
            if one.shape != first.shape or one.dtype != first.dtype:
                raise RunError(
                    f"item {number} of the {self._name} has a {one.dtype} tensor of shape "
                    f"{tuple(one.shape)}, and item {index[0]} a {first.dtype} one of "
                    f"{tuple(first.shape)}; all must be alike{self._remedy}"
                )
        return torch.stack(tuple(tensors))


def seed_everything(seed: int) -> None:
    """For the random numbers of a user's code, whoever draws them."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


def load_own(name: str, root: Path) -> Dataset:
    """The data set that a user's factory makes of --dataset_root.

    `factory(root)` returns (train, test), or (train, test, num_classes). Both are map-style data
    sets, whose items are pairs of a tensor and a class; without num_classes, train.classes says
    how many there are, as torchvision's data sets do.

    Raises:
        UsageError: there is no such factory, it fails, or it returns something else.
    """
    returned = call("--dataset", name, find_factory("--dataset", name), root, "--dataset_root")
    if not isinstance(returned, (tuple, list)) or len(returned) not in (2, 3):
        raise UsageError(
            f"--dataset {name} returns a {type(returned).__name__}; it must return (train, test), "
            "or (train, test, num_classes)"
        )
    train, test, *rest = returned
    for part, items in (("train", train), ("test", test)):
        if not (hasattr(items, "__len__") and hasattr(items, "__getitem__") and len(items)):
            raise UsageError(
                f"--dataset {name}: its {part} is a {type(items).__name__}; it must be a data set "
                "with a length of at least 1 and items by number"
            )
    num_classes = rest[0] if rest else len(getattr(train, "classes", ()))
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UsageError(
            f"--dataset {name} does not say how many classes there are: return (train, test, "
            "num_classes), or give train an attribute classes"
        )
    return _dataset(
        ItemSplit(train, "training data", num_classes),
        ItemSplit(test, "test data", num_classes),
        num_classes,
    )


def load_folder(root: Path, image_size: int | None) -> Dataset:
    """Images in folders named after their classes: root/train/cat/1.png, root/test/cat/2.png; val
    and validation are other names of test. They are read whenever they are needed.

    Args:
        root: --dataset_root.
        image_size: height and width that they are scaled and cut to; None to take them as they
            are, all alike.

    Raises:
        UsageError: there are none, or the classes of train and test differ.
    """
    train, test = (_folder(root, part, image_size) for part in _PARTS)
    if train.classes != test.classes:
        raise UsageError(
            f"--dataset_root {root}: train has the classes {_list(train.classes)}, and test "
            f"{_list(test.classes)}"
        )
    num_classes = len(train.classes)

    def split(source: Any, name: str) -> ItemSplit:
        digest = functools.partial(_digest_of_files, root, source)
        remedy = ": --image_size scales and cuts them"
        return ItemSplit(source, name, num_classes, digest, remedy)

    return _dataset(split(train, "training images"), split(test, "test images"), num_classes)


def _folder(root: Path, part: str, image_size: int | None) -> Any:
    import torchvision  # takes seconds that other data sets should not cost
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    path = next((root / name for name in _PARTS[part] if (root / name).is_dir()), None)
    if path is None:
        raise UsageError(
            f"--dataset_root {root} has no folder {part}; images are looked for in "
            f"{root / part}/CLASS/"
        )
    scaled = [] if image_size is None else [Resize(image_size), CenterCrop(image_size)]
    try:
        return torchvision.datasets.ImageFolder(path, Compose([*scaled, ToTensor()]))
    except FileNotFoundError as error:
        raise UsageError(f"--dataset_root {root}: {' '.join(str(error).split())}") from error


def _digest_of_files(root: Path, source: Any) -> str:
    """Of all names, sizes and classes: to read every image would take too long."""
    lines = [
        f"{Path(path).relative_to(root)} {Path(path).stat().st_size} {label}"
        for path, label in source.samples
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _dataset(train: ItemSplit, test: ItemSplit, num_classes: int) -> Dataset:
    shape = tuple(train.item(0)[0].shape)
    is_image = len(shape) == 3
    format = (ImageFormat if is_image else ItemFormat)(shape, num_classes)  # type: ignore[arg-type]
    return Dataset(train, test, format)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)

"""The files of MNIST and Fashion-MNIST, unpacked or packed, each held against its digest."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from compsgd.workers.failures import RunError, UsageError

_SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
# Of the files in the archives whose digests torchvision knows.
_SHA256 = {
    "MNIST": {
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
    },
    "FashionMNIST": {
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
    },
}
IDX_DATASETS = tuple(_SHA256)
_PACKED = ".gz"
# Other names that the same files go by.
_OTHER_NAMES = {name.replace("-idx", ".idx"): name for name in _SHAPES}


def missing_files(name: str, root: Path) -> list[Path]:
    """Those of a data set that are there neither packed nor unpacked; the others may be damaged.

    Args:
        name: of IDX_DATASETS.
        root: the folder that torchvision keeps data sets in.

    Raises:
        UsageError: they lie elsewhere, or have other names.
    """
    folder = _folder(name, root)
    missing = [file for file in _SHAPES if _found(folder, file) is None]
    for file in missing:
        _check_not_elsewhere(name, root, file)
        _check_not_renamed(folder, file)
    return [folder / file for file in missing]


def read_labelled_images(name: str, root: Path, part: str) -> tuple[Tensor, Tensor]:
    """The images of a part of a data set, and what they show.

    Args:
        name: of IDX_DATASETS.
        root: the folder that torchvision keeps data sets in; nothing is written there.
        part: "train" or "t10k".

    Returns:
        uint8, shape (images, 28, 28), and int64, shape (images,).

    Raises:
        RunError: a file is missing, cannot be read, or is damaged.
    """
    images, labels = (
        _read(name, root, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
    )
    return images, labels.to(torch.int64)


def _folder(name: str, root: Path) -> Path:
    return root / name / "raw"


def _found(folder: Path, file: str) -> Path | None:
    paths = [folder / file, folder / f"{file}{_PACKED}"]
    return next((path for path in paths if path.exists()), None)


def _check_not_elsewhere(name: str, root: Path, file: str) -> None:
    """A root that is one of the folders in it."""
    for folder in (root, root / "raw"):
        path = _found(folder, file)
        if path is not None:
            right = folder.absolute().parent.parent
            is_inside = folder.absolute() == _folder(name, right)
            remedy = f"give --dataset_root {right}" if is_inside else "move all four there"
            raise UsageError(f"{path} must be in {name}/raw of --dataset_root {root}: {remedy}")


def _check_not_renamed(folder: Path, file: str) -> None:
    for other, usual in _OTHER_NAMES.items():
        for ending in ("", _PACKED):
            path = folder / f"{other}{ending}"
            if usual == file and path.exists():
                raise UsageError(f"{path} has another name than is looked for: {file}{ending}")


def _read(name: str, root: Path, file: str) -> Tensor:
    path = _found(_folder(name, root), file)
    if path is None:
        raise RunError(f"{_folder(name, root) / file} is not there, nor packed as {_PACKED}")
    shape = _SHAPES[file]
    head_bytes = 4 + 4 * len(shape)
    num_bytes = head_bytes + math.prod(shape)
    content = _content(path, num_bytes)
    if len(content) != num_bytes or hashlib.sha256(content).hexdigest() != _SHA256[name][file]:
        raise _damaged(path, f"its content is not that of {name}'s {file}")
    return torch.frombuffer(content, dtype=torch.uint8, offset=head_bytes).reshape(shape)


def _content(path: Path, num_bytes: int) -> bytearray:
    """What is in a file, or would be in it unpacked; a byte more at most than there should be."""
    try:
        if path.suffix != _PACKED:
            with path.open("rb") as file:
                return bytearray(file.read(num_bytes + 1))
        with gzip.open(path) as packed:
            return bytearray(packed.read(num_bytes + 1))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        f"{path} is damaged: {reason}; delete it, and --download true fetches what is missing"
    )

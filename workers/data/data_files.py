"""Damage to unpacked data files, which torchvision only checks while they are packed."""

import hashlib
from pathlib import Path

from compsgd.workers.failures import RunError

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


def check_data_files(name: str, root: Path) -> None:
    """Raises RunError if an unpacked file of a data set is not what its archive holds.

    Args:
        name: of the data set; others than MNIST and FashionMNIST torchvision checks itself.
        root: the folder that torchvision keeps data sets in.
    """
    for file_name, digest in _SHA256.get(name, {}).items():
        path = root / name / "raw" / file_name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise RunError(
                f"{path} is damaged: its content does not match its digest; delete it, and "
                "--download true unpacks it again"
            )

"""What identifies a run: versions, weights, shapes."""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and every bit of named tensors."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def shapes_sha256(weights: Mapping[str, Tensor]) -> str:
    """A digest of names and shapes alone."""
    shapes = [(name, tuple(value.shape)) for name, value in weights.items()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of everything that the numbers of a run may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": np.__version__,
    }

"""What training knows of its data: items by number, and what a model has to fit."""

import functools
import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Split(Protocol):
    """The part of a data set that is trained on, or the one that is held out."""

    @property
    def counted(self) -> str:
        """What its items are, in the plural."""

    def __len__(self) -> int:
        """How many items there are."""

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Some of the items.

        Args:
            index: their numbers; int64, shape (batch,).
            device: where to.

        Returns:
            what a model is given, shape (batch, ...), and the classes that it should predict;
            int64, shape (batch,), or (batch, context) for one at every place of a sequence.
        """

    def evaluated(self) -> Tensor:
        """Numbers of the items that an evaluation takes; int64."""

    def digest(self) -> str:
        """The SHA-256 of all items."""


@dataclass(frozen=True)
class ImageFormat:
    """What a model of images has to fit.

    Attributes:
        shape: channels, height, width.
        num_classes: which are told apart.
    """

    shape: tuple[int, int, int]
    num_classes: int

    def __str__(self) -> str:
        return f"images of shape {self.shape} in {self.num_classes} classes"


@dataclass(frozen=True)
class ItemFormat:
    """What a model of a user's own data has to fit, where they are no images.

    Attributes:
        shape: of an input.
        num_classes: which are told apart.
    """

    shape: tuple[int, ...]
    num_classes: int

    def __str__(self) -> str:
        return f"inputs of shape {self.shape} in {self.num_classes} classes"


@dataclass(frozen=True)
class TextFormat:
    """What a model of text has to fit.

    Attributes:
        vocabulary: every character of the text, sorted; a token is a place in it.
        context: how many characters a sequence has.
    """

    vocabulary: str
    context: int

    def __str__(self) -> str:
        return f"text of {len(self.vocabulary)} characters, in sequences of {self.context}"


Format = ImageFormat | ItemFormat | TextFormat


@dataclass(frozen=True)
class Dataset:
    train: Split
    test: Split
    format: Format

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of its format and of all items: what processes, and parts of a run that was
        interrupted, must have alike."""
        parts = [repr(self.format), self.train.digest(), self.test.digest()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def sha256_of(*tensors: Tensor) -> str:
    """Of every bit of tensors on the CPU."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()

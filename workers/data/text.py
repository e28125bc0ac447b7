"""Text as tokens, a character each, in sequences for next-character prediction."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compsgd.workers.data.splits import Dataset, TextFormat, sha256_of
from compsgd.workers.failures import UsageError

HELD_OUT = "validation.txt"
# Of what is trained on, which may be large.
_MAX_EVALUATED = 4000


@dataclass(frozen=True)
class TextSplit:
    """A text, cut into consecutive sequences; what is left at its end is not used.

    Attributes:
        tokens: int32, shape (characters,).
        context: how many characters a sequence has, and is asked to predict.
        max_evaluated: how many sequences an evaluation takes at most, spread evenly; all without.
    """

    tokens: Tensor
    context: int
    max_evaluated: int | None = None
    counted = "sequences"

    def __len__(self) -> int:
        # The last character of a sequence has its successor to predict.
        return (len(self.tokens) - 1) // self.context

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Characters, and the one after each; int64, shape (batch, context) both."""
        windows = self.tokens.unfold(0, self.context + 1, self.context)[index]
        windows = windows.to(device, torch.int64)
        return windows[:, :-1], windows[:, 1:]

    def evaluated(self) -> Tensor:
        count = min(len(self), self.max_evaluated or len(self))
        return torch.arange(count) * len(self) // count

    def digest(self) -> str:
        return sha256_of(self.tokens)


def load_text(root: Path, context: int) -> Dataset:
    """A text of the user's.

    Args:
        root: a UTF-8 file, or a folder, whose *.txt are read in the order of their names. Its
            validation.txt is held out, or else the last tenth of the text.
        context: how many characters a sequence has.

    Raises:
        UsageError: it is not there, not UTF-8, or too short.
    """
    if root.is_dir():
        text, held_out = _read_folder(root)
    else:
        text, held_out = _read(root), None
    if held_out is None:
        text, held_out = split_off_last_tenth(text)
    return as_dataset(text, held_out, context, str(root))


def split_off_last_tenth(text: str) -> tuple[str, str]:
    """What is trained on, and what is held out."""
    end = len(text) - len(text) // 10
    return text[:end], text[end:]


def as_dataset(text: str, held_out: str, context: int, source: str) -> Dataset:
    """Sequences of two texts, over the vocabulary of both: no character is unknown.

    Args:
        text: what is trained on.
        held_out: what is not.
        context: how many characters a sequence has.
        source: what a user knows the text by.

    Raises:
        UsageError: one of both has no sequence.
    """
    for part, content in (("training", text), ("held-out", held_out)):
        if len(content) <= context:
            raise UsageError(
                f"the {part} text of {source} has {len(content)} characters; a sequence of "
                f"--context {context} needs {context + 1}"
            )
    vocabulary = "".join(sorted({*text, *held_out}))
    return Dataset(
        TextSplit(_encode(text, vocabulary), context, _MAX_EVALUATED),
        TextSplit(_encode(held_out, vocabulary), context),
        TextFormat(vocabulary, context),
    )


def _encode(text: str, vocabulary: str) -> Tensor:
    """The places of characters in the vocabulary."""
    places = np.searchsorted(_code_points(vocabulary), _code_points(text))
    return torch.from_numpy(places.astype(np.int32))


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _read_folder(folder: Path) -> tuple[str, str | None]:
    paths = sorted(path for path in folder.glob("*.txt") if path.name != HELD_OUT)
    if not paths:
        raise UsageError(f"--dataset_root {folder} has no .txt file to train on")
    text = "".join(_read(path) for path in paths)
    held_out = folder / HELD_OUT
    return text, _read(held_out) if held_out.exists() else None


def _read(path: Path) -> str:
    # Not read_text, which would turn one kind of line end into another.
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise UsageError(
            f"--dataset_root: the text {path} cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8: byte {error.start} is in no character") from error

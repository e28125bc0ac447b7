"""Data-parallel training that exchanges 1 to 8 bits a gradient element and takes a vote.

`compsgd.comm`, which uses torch.distributed, is imported when it is first asked for.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from compsgd.codec.packing import pack, packed_num_bytes, unpack
from compsgd.errors import CompsgdError, DamagedDataError, GradientError, PeerError, SettingError
from compsgd.optim.embeddings import embedding_parameters
from compsgd.optim.optimizers import SGD, AdamW, CompressedSGD, CompressedSGDVote, SignSGD
from compsgd.settings import VoteSettings
from compsgd.upwards import attribute
from compsgd.voting.exchange import Exchange, InProcessExchange

try:
    __version__ = version("compsgd")
except PackageNotFoundError:  # a copy that was never installed
    __version__ = "unknown"

__all__ = [
    "SGD",
    "AdamW",
    "CompressedSGD",
    "CompressedSGDVote",
    "CompsgdError",
    "DamagedDataError",
    "Exchange",
    "GradientError",
    "InProcessExchange",
    "PeerError",
    "SettingError",
    "SignSGD",
    "VoteAggregator",
    "VoteSettings",
    "embedding_parameters",
    "pack",
    "packed_num_bytes",
    "unpack",
]


def __getattr__(name: str) -> Any:
    return attribute(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "comm"})

"""Data-parallel training that exchanges 1 to 8 bits a gradient element and takes a vote.

Names are imported when they are first asked for, `compsgd.comm` too: a command has to be ready for
Ctrl-C before it imports torch, which takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from compsgd.codec.packing import pack, packed_num_bytes, unpack
    from compsgd.errors import (
        CompsgdError,
        DamagedDataError,
        GradientError,
        PeerError,
        SettingError,
    )
    from compsgd.optim.embeddings import embedding_parameters
    from compsgd.optim.optimizers import SGD, AdamW, CompressedSGD, CompressedSGDVote, SignSGD
    from compsgd.settings import VoteSettings
    from compsgd.voting.exchange import Exchange, InProcessExchange

_HOMES = {
    "compsgd.codec.packing": ("pack", "packed_num_bytes", "unpack"),
    "compsgd.errors": (
        "CompsgdError",
        "DamagedDataError",
        "GradientError",
        "PeerError",
        "SettingError",
    ),
    "compsgd.optim.embeddings": ("embedding_parameters",),
    "compsgd.optim.optimizers": (
        "SGD",
        "AdamW",
        "CompressedSGD",
        "CompressedSGDVote",
        "SignSGD",
    ),
    "compsgd.settings": ("VoteSettings",),
    "compsgd.voting.exchange": ("Exchange", "InProcessExchange"),
}

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
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    if name == "__version__":
        return _version()
    from compsgd.upwards import attribute

    return attribute(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "comm", "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("compsgd")
    except PackageNotFoundError:  # a copy that was never installed
        return "unknown"

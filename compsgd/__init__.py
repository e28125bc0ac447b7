"""Data-parallel training that exchanges 1 to 8 bits a gradient element and takes a vote."""

from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange, InProcessExchange
from compsgd.optimizers import CompressedSGD, CompressedSGDVote, SignSGD
from compsgd.packing import pack, packed_num_bytes, unpack
from compsgd.sgd import SGD

__all__ = [
    "SGD",
    "CompressedSGD",
    "CompressedSGDVote",
    "CompsgdError",
    "Exchange",
    "InProcessExchange",
    "SignSGD",
    "pack",
    "packed_num_bytes",
    "unpack",
]

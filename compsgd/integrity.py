"""Bytes that no packer could have written are an error, never levels (design, section 3)."""

from torch import Tensor

from compsgd.alphabet import Alphabet
from compsgd.compiling import BALLOTS_AT_ONCE, Kernels
from compsgd.errors import CompsgdError
from compsgd.grouping import group_for
from compsgd.kernels import invalid_words
from compsgd.pieces import Piece, packed_size


def check_received(packed: Tensor, numel: int, alphabet: Alphabet, kernels: Kernels) -> None:
    """Raises CompsgdError unless every row holds `numel` packed levels and then zeros.

    Args:
        packed: uint8, shape (rows, num_bytes) with num_bytes >= packed_size(numel, alphabet).
    """
    if bool(packed[:, packed_size(numel, alphabet) :].any()):
        raise CompsgdError("a shard ends in padding that is not zero; the bytes are damaged")
    is_full = group_for(alphabet).is_full
    for piece in kernels.pieces(numel, alphabet):
        part = packed[:, piece.bytes.slice]
        if not is_full:
            for some in part.split(BALLOTS_AT_ONCE):
                check_symbols(piece, some, alphabet, kernels)
        check_padding(piece, part)


def check_symbols(piece: Piece, packed: Tensor, alphabet: Alphabet, kernels: Kernels) -> None:
    """Raises CompsgdError if the bytes of a piece, shape (ballots, bytes.numel), hold what is no
    symbol."""
    ballots = [piece.byte_rows(row) for row in packed]
    if bool(kernels.run(invalid_words, piece.num_blocks, ballots, alphabet=alphabet)):
        raise CompsgdError(
            f"packed levels hold a symbol outside the alphabet of {alphabet.symbols}; "
            "the bytes are damaged"
        )


def check_padding(piece: Piece, packed: Tensor) -> None:
    """Raises CompsgdError if tails, shape (tails, bytes.numel), hold more than their elements."""
    if piece.is_tail and piece.has_padding(packed):
        raise CompsgdError("packed levels end in padding that is not zero; the bytes are damaged")

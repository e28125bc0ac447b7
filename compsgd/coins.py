"""Random bits for the pieces of a vector (design, section 4)."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from compsgd.alphabet import Alphabet
from compsgd.compiling import Kernels
from compsgd.flat import Run
from compsgd.pieces import Piece
from compsgd.randomness import block_coins, gather_coins, hash_positions, random_bits


class CoinedPiece(NamedTuple):
    """A piece of a shard, its place in the flat vector, and its random bits.

    Attributes:
        coins: uint8, shape (piece.num_blocks, columns), a byte for every column; None where no
            zero is broken.
    """

    piece: Piece
    run: Run
    coins: Tensor | None


def coined_pieces(
    shard: Run,
    first: int,
    alphabet: Alphabet,
    key: int | None,
    kernels: Kernels,
    device: torch.device,
) -> Iterator[CoinedPiece]:
    """The pieces of a shard's levels.

    Args:
        shard: its place in the flat vector.
        first: where that vector begins in the one of the whole model, which random bits count.
        alphabet: of the levels.
        key: from derive_key; None where no zero is broken.
        kernels: how to run them.
        device: where the coins go.
    """
    pieces = list(kernels.pieces(shard.numel, alphabet))
    places = [piece.elements.shifted(shard.start) for piece in pieces]
    if key is None:
        yield from (CoinedPiece(*place, None) for place in zip(pieces, places, strict=True))
        return

    def hash_words(position: Tensor, key: Tensor) -> Tensor:
        return kernels.run(hash_positions, position.shape[0], position, key)

    num_blocks = sum(piece.num_blocks for piece in pieces if not piece.is_tail)
    coins = block_coins(key, first + shard.start, num_blocks, device, hash_words)
    done = 0
    for piece, run in zip(pieces, places, strict=True):
        if piece.is_tail:
            bits = random_bits(key, first + run.start, run.numel, device, hash_words)
            yield CoinedPiece(piece, run, gather_coins(piece.rows(bits)))
        else:
            yield CoinedPiece(piece, run, coins[done : done + piece.num_blocks])
            done += piece.num_blocks

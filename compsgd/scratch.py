"""Memory that is kept from round to round: new memory is slow."""

import torch
from torch import Tensor

from compsgd.pieces import Piece


class Scratch:
    """One buffer that grows to what is asked of it."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._buffer: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        return 0 if self._buffer is None else self._buffer.nbytes

    def flat(self, numel: int, device: torch.device) -> Tensor:
        """Uninitialised, shape (numel,); the next call hands out the same memory."""
        kept = self._buffer
        if kept is None or kept.numel() < numel or kept.device != device:
            kept = self._buffer = torch.empty(numel, dtype=self._dtype, device=device)
        return kept[:numel]

    def rows(self, piece: Piece, device: torch.device) -> Tensor:
        """Rows of a piece's elements, to write into."""
        flat = self.flat(piece.elements.numel, device)
        # Rows of a tail are a copy, and bytes that mean no number are slow to copy.
        return piece.rows(flat.zero_() if piece.is_tail else flat)

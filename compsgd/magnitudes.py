"""Sums of magnitudes, and levels times a scale: what puts a vote back into the gradient's units.

All of it parameter by parameter, so that nothing depends on which of them are joined in a bucket.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from compsgd.alphabet import Alphabet
from compsgd.compiling import Kernels
from compsgd.kernels import block_level_magnitudes, block_magnitudes, scaled_levels

_BLOCK = 4096


def magnitudes(parts: Sequence[Tensor], alphabet: Alphabet, kernels: Kernels) -> list[float]:
    """The sum of |x| of each part; not finite if any x is not.

    Args:
        parts: float32, contiguous, one-dimensional.
        alphabet: of the ballot that the magnitudes go with.
        kernels: how to run them.
    """
    codec = kernels.codec(alphabet, parts[0].device) if parts else None
    if codec is not None:
        return [codec.sum_magnitudes(part) for part in parts]
    return _totals(parts, block_magnitudes, kernels, torch.float32)


def level_magnitudes(
    parts: Sequence[Tensor], alphabet: Alphabet, kernels: Kernels
) -> Sequence[float]:
    """The sum of |level| of each part.

    Args:
        parts: codes, alphabet.code_dtype, contiguous, one-dimensional.
        alphabet: of the codes.
        kernels: how to run them.
    """
    codec = kernels.codec(alphabet, parts[0].device) if parts else None
    if codec is not None:
        return [codec.sum_levels(part) for part in parts]
    return _totals(parts, block_level_magnitudes, kernels, torch.int32, alphabet=alphabet)


def _totals(
    parts: Sequence[Tensor],
    function: Callable[..., Tensor],
    kernels: Kernels,
    dtype: torch.dtype,
    **settings: Any,
) -> list[float]:
    totals = []
    for part in parts:
        total = torch.zeros((), dtype=torch.float64, device=part.device)
        for rows in _in_blocks(part):
            sums = torch.empty(rows.shape[0], 1, dtype=dtype, device=part.device)
            kernels.run(function, rows.shape[0], sums, rows, **settings)
            total += sums.sum(dtype=torch.float64)
        totals.append(total)
    # One by one, a device would be waited for each time.
    return torch.stack(totals).tolist() if totals else []


def write_levels(
    out: Tensor, codes: Tensor, scale: float, alphabet: Alphabet, kernels: Kernels
) -> None:
    """Writes scale * level.

    Args:
        out: of any floating type, contiguous, shape (codes.numel(),).
        codes, alphabet, kernels: as for level_magnitudes.
    """
    codec = kernels.codec(alphabet, codes.device)
    values = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
    if codec is not None:
        codec.write_levels(values, codes, scale)
    else:
        factor = torch.tensor(scale, dtype=torch.float32, device=codes.device)
        for rows, places in zip(_in_blocks(codes), _in_blocks(values), strict=True):
            args = places, rows, factor
            kernels.run(scaled_levels, rows.shape[0], *args, alphabet=alphabet)
    if values is not out:
        out.copy_(values)


def _in_blocks(flat: Tensor) -> Iterator[Tensor]:
    """Views as rows: of whole blocks, and of the rest."""
    whole = flat.numel() // _BLOCK * _BLOCK
    if whole:
        yield flat[:whole].view(-1, _BLOCK)
    if whole < flat.numel():
        yield flat[whole:].view(1, -1)

"""Sums of magnitudes, parameter by parameter: one pass over memory, block by block.

They do not depend on which parameters are joined in a bucket.
"""

import torch
from torch import Tensor

from compsgd.compiling import Kernels
from compsgd.flat import FlatLayout, Run
from compsgd.kernels import block_magnitudes

_BLOCK = 4096


def total_magnitude(flat: Tensor, kernels: Kernels) -> Tensor:
    """The sum of |x|, a float64 scalar.

    Args:
        flat: float32, one-dimensional.
        kernels: how to run them.
    """
    blocks = _block_totals(flat, kernels)
    rest = flat[blocks.numel() * _BLOCK :]
    return blocks.sum(dtype=torch.float64) + rest.abs().sum(dtype=torch.float64)


def add_level_magnitudes(
    totals: Tensor, levels: Tensor, run: Run, layout: FlatLayout, kernels: Kernels
) -> None:
    """Adds |level| in a part of the flat vector to the sums of its parameters, exactly.

    Args:
        totals: float64, by parameter; added to.
        levels: integers as float32, shape (run.numel,).
        run: where they stand in the flat vector.
        layout: where the parameters stand there.
        kernels: how to run them.
    """
    blocks = _block_totals(levels, kernels)
    for index, part in layout.parts_of(run):
        start, end = part.shifted(-run.start)
        first, last = -(-start // _BLOCK), min(end // _BLOCK, blocks.numel())
        if first >= last:
            totals[index] += levels[start:end].abs().sum()
            continue
        totals[index] += blocks[first:last].sum(dtype=torch.float64)
        for edge in (levels[start : first * _BLOCK], levels[last * _BLOCK : end]):
            if edge.numel():
                totals[index] += edge.abs().sum()


def _block_totals(flat: Tensor, kernels: Kernels) -> Tensor:
    """The sums of all whole blocks."""
    num_blocks = flat.numel() // _BLOCK
    totals = flat.new_empty(num_blocks, 1)
    if num_blocks:
        rows = flat[: num_blocks * _BLOCK].view(num_blocks, _BLOCK)
        kernels.run(block_magnitudes, num_blocks, totals, rows)
    return totals.view(-1)

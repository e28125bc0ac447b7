"""Sums of magnitudes, parameter by parameter."""

from torch import Tensor

from compsgd.compiling import Kernels
from compsgd.flat import FlatLayout, Run
from compsgd.kernels import block_magnitudes

_BLOCK = 4096


def add_magnitudes(
    totals: Tensor, flat: Tensor, run: Run, layout: FlatLayout, kernels: Kernels
) -> None:
    """Adds the magnitudes of a part of the flat vector to the sums of its parameters.

    Block by block in one pass over memory; what is left at the edges of a parameter by itself.

    Args:
        totals: float32, by parameter; added to.
        flat: float32, shape (run.numel,).
        run: where it stands in the flat vector.
        layout: where the parameters stand there.
        kernels: how to run them.
    """
    num_blocks = run.numel // _BLOCK
    sums = flat.new_empty(num_blocks, 1)
    if num_blocks:
        rows = flat[: num_blocks * _BLOCK].view(num_blocks, _BLOCK)
        kernels.run(block_magnitudes, num_blocks, sums, rows)
    for index, part in layout.parts_of(run):
        start, end = part.shifted(-run.start)
        first, last = -(-start // _BLOCK), min(end // _BLOCK, num_blocks)
        if first >= last:
            totals[index] += flat[start:end].abs().sum()
            continue
        totals[index] += sums[first:last].sum()
        for edge in (flat[start : first * _BLOCK], flat[last * _BLOCK : end]):
            if edge.numel():
                totals[index] += edge.abs().sum()

"""Whether and how kernels go through torch.compile.

The results are the same by a bit, but for logarithms: with "exp" a value within 1e-6 of the edge
of a bin may fall on its other side.
"""

import logging
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from compsgd.alphabet import Alphabet
from compsgd.errors import CompsgdError
from compsgd.pieces import Piece, pieces

log = logging.getLogger("compsgd")

COMPILE_CHOICES = ("auto", "on", "off")

# What a compiled round saves, about 10 ns an element and worker, against 20 s to compile.
PAYS_FROM = 2_000_000_000
# A library does not know how long its user will train.
_USUAL_ROUNDS = 1000

PIECE_NUMEL = 1 << 21
_EAGER_PIECE_NUMEL = 1 << 16

# Compiled code names every ballot that it adds up: more of them go in several calls.
BALLOTS_AT_ONCE = 16

_compiled: dict[tuple[Any, ...], "_CompiledKernel"] = {}


def pays(numel: int, num_workers: int, num_rounds: int = _USUAL_ROUNDS) -> bool:
    """The rule of "auto": whether compiling takes less time than it saves. It counts elements x
    workers x rounds, and never asks how many processes there are, so all of a run agree."""
    return numel * num_workers * num_rounds >= PAYS_FROM


class Kernels:
    """Runs the functions of `compsgd.kernels`, compiled or eagerly.

    Attributes:
        is_compiled: which of both.
    """

    def __init__(self, compiled: bool, may_fall_back: bool = True) -> None:
        """
        Args:
            compiled: whether to compile, each function when it is first called.
            may_fall_back: whether to go on eagerly, with a line in the log, where that fails.
        """
        self.is_compiled = compiled
        self._may_fall_back = may_fall_back

    def pieces(self, numel: int, alphabet: Alphabet) -> Iterator[Piece]:
        """A vector cut up as suits them: large pieces where a call is dear, or such as stay in the
        cache where each operation makes a temporary."""
        if self.is_compiled:
            # In halves at least: what one piece takes is to be small beside the vector.
            return pieces(numel, alphabet, min(PIECE_NUMEL, -(-numel // 2)), fill_tail=True)
        return pieces(numel, alphabet, _EAGER_PIECE_NUMEL)

    def run(
        self, function: Callable[..., Tensor], num_blocks: int, *args: Any, **settings: Any
    ) -> Tensor:
        """function(*args, **settings), where tensors of two dimensions or more have `num_blocks`
        blocks in front, as many as they like.

        Raises:
            CompsgdError: compiling failed and must not.
        """
        # A size of 1 would be compiled once more.
        if not self.is_compiled or num_blocks < 2:
            return function(*args, **settings)
        try:
            return _compiled_kernel(function, settings)(*args)
        except Exception as error:
            if not _is_compiler_failure(error):
                raise
            reason = f"torch.compile fails here ({_first_line(error)})"
            if not self._may_fall_back:
                raise CompsgdError(f'{reason}; compile="off" goes without it') from error
            log.warning("%s: going on without it, slower and with the same results", reason)
            self.is_compiled = False
            return function(*args, **settings)


class _CompiledKernel:
    """One kernel with its settings, for any number of blocks."""

    def __init__(self, function: Callable[..., Tensor], settings: dict[str, Any]) -> None:
        self._call = torch.compile(
            _copy_of(function, settings), fullgraph=True, dynamic=False, options=_options()
        )
        self._is_new = True

    def __call__(self, *args: Any) -> Tensor:
        if self._is_new:
            for tensor in _tensors(args):
                if tensor.ndim > 1:
                    torch._dynamo.mark_dynamic(tensor, 0)
        result: Tensor = self._call(*args)
        self._is_new = False
        return result


def _compiled_kernel(function: Callable[..., Tensor], settings: dict[str, Any]) -> _CompiledKernel:
    key = (function, *sorted(settings.items()))
    if key not in _compiled:
        _compiled[key] = _CompiledKernel(function, settings)
    return _compiled[key]


def _copy_of(function: Callable[..., Tensor], settings: dict[str, Any]) -> FunctionType:
    """The function with its settings filled in and code of its own: torch.compile counts the
    variants of a piece of code, and gives up at the eighth."""
    assert isinstance(function, FunctionType)
    code = function.__code__.replace(co_name=f"{function.__name__}_{len(_compiled)}")
    copy = FunctionType(code, function.__globals__, code.co_name, function.__defaults__)
    copy.__kwdefaults__ = settings
    return copy


def _options() -> dict[str, Any]:
    """One pass over memory where the compiler would rather make two, and exact division, which
    Triton's own is not."""
    # Not at the top: it takes seconds, which those who run eagerly should not pay.
    from torch._inductor import config

    options = {"realize_reads_threshold": 1000, "realize_opcount_threshold": 1000}
    if hasattr(config, "eager_numerics"):
        options |= {"eager_numerics.division_rounding": True, "eager_numerics.disable_ftz": True}
    return options


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    nested = [arg if isinstance(arg, (list, tuple)) else [arg] for arg in args]
    return [item for items in nested for item in items if isinstance(item, Tensor)]


def _is_compiler_failure(error: Exception) -> bool:
    is_disabled = bool(torch._dynamo.config.disable)
    return is_disabled or type(error).__module__.startswith(("torch._inductor", "torch._dynamo"))


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)

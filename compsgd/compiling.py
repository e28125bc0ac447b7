"""Whether and how kernels are compiled: as loops by Numba, and the rest by torch.compile.

The results are the same by a bit, but for logarithms: with "exp" a value within 1e-6 of the edge
of a bin may fall on the other side through torch.compile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compsgd.alphabet import Alphabet
from compsgd.errors import CompsgdError
from compsgd.pieces import Piece, pieces

if TYPE_CHECKING:
    from compsgd.native import NativeCodec

log = logging.getLogger("compsgd")

COMPILE_CHOICES = ("auto", "on", "native", "off")

# What compiled code saves, 10 ns or more an element, worker and round, against 20 s for
# torch.compile, and 1 s to load Numba's code.
PAYS_FROM = 2_000_000_000
NATIVE_PAYS_FROM = 100_000_000
# A library does not know how long its user will train.
_USUAL_ROUNDS = 1000

PIECE_NUMEL = 1 << 21
_EAGER_PIECE_NUMEL = 1 << 16

# Compiled code names every ballot that it adds up: more of them go in several calls.
BALLOTS_AT_ONCE = 16

_compiled: dict[tuple[Any, ...], _CompiledKernel] = {}


def choose(compile: str, numel: int, num_workers: int, num_rounds: int = _USUAL_ROUNDS) -> str:
    """The rule of "auto": whether compiling takes less time than it saves. It counts elements x
    workers x rounds, and never asks how many processes there are, so all of a run agree.

    Returns:
        "on", "native" or "off"; what it is asked for, if that is not "auto".
    """
    if compile != "auto":
        return compile
    work = numel * num_workers * num_rounds
    if work >= PAYS_FROM:
        return "on"
    return "native" if work >= NATIVE_PAYS_FROM else "off"


class Kernels:
    """Runs the functions of `compsgd.kernels`, through torch.compile or eagerly, and knows where
    Numba's loops do their work.

    Attributes:
        is_compiled: whether through torch.compile.
        is_native: whether by loops, where there are any.
    """

    def __init__(self, choice: str, may_fall_back: bool = True) -> None:
        """
        Args:
            choice: "on", all of it compiled, each function when it is first called; "native",
                what there are loops for; or "off".
            may_fall_back: whether to go on without, with a line in the log, where that fails.
        """
        self.is_compiled = choice == "on"
        self.is_native = choice != "off"
        self._may_fall_back = may_fall_back
        self._codecs: dict[Alphabet, NativeCodec | None] = {}

    def codec(self, alphabet: Alphabet, device: torch.device) -> NativeCodec | None:
        """The loops for ballots of an alphabet; None where torch does the work.

        Raises:
            CompsgdError: Numba does not work here, and must.
        """
        if not self.is_native or device.type != "cpu":
            return None
        if alphabet not in self._codecs:
            self._codecs[alphabet] = self._load_codec(alphabet)
        return self._codecs[alphabet]

    def _load_codec(self, alphabet: Alphabet) -> NativeCodec | None:
        try:
            # Not at the top: Numba takes half a second, which those without it should not pay.
            from compsgd.native import codec_for
        except ImportError as error:
            self.is_native = False
            self._fall_back("Numba", error)
            return None
        return codec_for(alphabet)

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
            self.is_compiled = False
            self._fall_back("torch.compile", error)
            return function(*args, **settings)

    def _fall_back(self, compiler: str, error: Exception) -> None:
        reason = f"{compiler} fails here ({_first_line(error)})"
        if not self._may_fall_back:
            raise CompsgdError(f'{reason}; compile="off" goes without it') from error
        log.warning("%s: going on without it, slower and with the same results", reason)


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

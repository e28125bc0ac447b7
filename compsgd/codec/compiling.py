"""Whether and how the work on codes is compiled: by Numba on a CPU, and the rest by torch.compile.

The results are bit-identical, but for logarithms: with "exp" a value within 1e-6 of the edge of a
bin may fall on the other side through torch.compile.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any, ParamSpec, Protocol

import torch
from torch import Tensor

from compsgd.codec.alphabet import Alphabet
from compsgd.codec.binning import has_loop
from compsgd.codec.blocks import Blocks, blocks_of
from compsgd.codec.combine import Combine, Vote
from compsgd.errors import SettingError

log = logging.getLogger("compsgd")

COMPILE_CHOICES = ("auto", "on", "native", "off")

# What torch.compile saves, ns an element, worker and round: of encoding, and of counting where
# zeros are broken and where they are kept (`compsgd bench codec --compile on off`).
_ENCODE_SAVES_NS = 4.0
_COUNT_SAVES_NS = 2.5
_COUNT_ZEROS_SAVES_NS = 10.0
# What it costs: once, and a worker and round for its calls.
_COMPILE_S = 20.0
_CALLS_S = 0.0002
# A library does not know how long its user will train.
_USUAL_ROUNDS = 1000

_P = ParamSpec("_P")


@dataclass(frozen=True)
class Work:
    """What there is to compile: the work on some ballots."""

    alphabet: Alphabet
    binning: str | None
    combine: Combine
    device_type: str

    @property
    def has_loops(self) -> bool:
        """Whether Numba can do some of it."""
        return self.device_type == "cpu" and not self.alphabet.zeros

    @property
    def torch_saves_ns(self) -> float:
        """What torch.compile saves of the rest, an element, worker and round."""
        encodes = self.has_loops and has_loop(self.binning)
        counts = self.has_loops and type(self.combine) is Vote
        count_ns = _COUNT_ZEROS_SAVES_NS if self.alphabet.zeros else _COUNT_SAVES_NS
        return (0 if encodes else _ENCODE_SAVES_NS) + (0 if counts else count_ns)


def choose(
    compile: str, work: Work, numel: int, num_workers: int, num_rounds: int = _USUAL_ROUNDS
) -> str:
    """The rule of "auto": Numba wherever it can do something, and torch.compile for what is left
    if it takes less time than it saves. It never asks how many processes there are, so all of a
    run agree.

    Returns:
        "on", "native" or "off"; what it is asked for, if that is not "auto".
    """
    if compile != "auto":
        return compile
    saved_s = work.torch_saves_ns * 1e-9 * numel - (_CALLS_S if work.torch_saves_ns else 0)
    if saved_s * num_workers * num_rounds > _COMPILE_S:
        return "on"
    return "native" if work.has_loops else "off"


class Compiler(Protocol):
    """How kernels of `compsgd.codec.torch_kernels` are run.

    Attributes:
        chunk_numel: elements of a vector that one call is given.
    """

    @property
    def chunk_numel(self) -> int: ...

    def compiled(self, kernel: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
        """The same kernel: its tensors of two dimensions or more have equally many blocks in
        front, as many as they like."""

    def blocks(self, numel: int, alphabet: Alphabet) -> Iterator[Blocks]:
        """A vector cut up for its calls."""


class Eager:
    """As it is, each operation by itself: small pieces, which stay in the cache."""

    chunk_numel = 1 << 16

    def compiled(self, kernel: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
        return kernel

    def blocks(self, numel: int, alphabet: Alphabet) -> Iterator[Blocks]:
        return blocks_of(numel, alphabet, self.chunk_numel)


class Inductor:
    """Through torch.compile, each kernel when it is first called: large pieces, since a call is
    dear."""

    chunk_numel = 1 << 21

    def __init__(self, may_fall_back: bool) -> None:
        """Args: may_fall_back: whether to go on eagerly, with a line in the log, if it fails."""
        self._may_fall_back = may_fall_back
        self._has_failed = False
        self._compiled: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}

    def compiled(self, kernel: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
        if kernel not in self._compiled:
            self._compiled[kernel] = self._with_fall_back(kernel, _CompiledKernel(kernel))
        return self._compiled[kernel]

    def _with_fall_back(
        self, kernel: Callable[_P, Tensor], compiled: Callable[[tuple[Any, ...]], Tensor]
    ) -> Callable[_P, Tensor]:
        def run(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
            # A single block would be compiled once more.
            if self._has_failed or not _has_blocks(args):
                return kernel(*args, **kwargs)
            try:
                return compiled(args)
            except Exception as error:
                if not _is_compiler_failure(error):
                    raise
                fall_back("torch.compile", error, self._may_fall_back)
                self._has_failed = True
                return kernel(*args, **kwargs)

        return run

    def blocks(self, numel: int, alphabet: Alphabet) -> Iterator[Blocks]:
        # In halves at least: what one piece takes is to be small beside the vector.
        return blocks_of(numel, alphabet, min(self.chunk_numel, -(-numel // 2)), fill_tail=True)


@functools.cache
def compiler_named(choice: str, may_fall_back: bool) -> Compiler:
    """The compiler of torch's part of the work: Inductor for "on", and else Eager."""
    return Inductor(may_fall_back) if choice == "on" else Eager()


def fall_back(compiler: str, error: Exception, may_fall_back: bool) -> None:
    """Says in the log that it goes on without a compiler, or raises SettingError if it must not."""
    reason = f"{compiler} fails here ({_first_line(error)})"
    if not may_fall_back:
        raise SettingError(f'{reason}; compile="off" goes without it') from error
    log.warning("%s: going on without it, slower and with the same results", reason)


_num_compiled = 0


class _CompiledKernel:
    """One kernel, for any number of blocks."""

    def __init__(self, kernel: Callable[..., Tensor]) -> None:
        self._kernel = kernel
        self._call: Callable[..., Tensor] | None = None

    def __call__(self, args: tuple[Any, ...]) -> Tensor:
        if self._call is not None:
            return self._call(*args)
        compiled = torch.compile(
            _copy_of(self._kernel), fullgraph=True, dynamic=False, options=_options()
        )
        for tensor in _tensors(args):
            if tensor.ndim > 1:
                torch._dynamo.mark_dynamic(tensor, 0)
        result: Tensor = compiled(*args)
        self._call = compiled
        return result


def _copy_of(kernel: Callable[..., Tensor]) -> FunctionType:
    """The kernel with code of its own: torch.compile counts the variants of a piece of code, and
    gives up at the eighth."""
    global _num_compiled
    assert isinstance(kernel, FunctionType)
    _num_compiled += 1
    code = kernel.__code__.replace(co_name=f"{kernel.__name__}_{_num_compiled}")
    return FunctionType(
        code, kernel.__globals__, code.co_name, kernel.__defaults__, kernel.__closure__
    )


def _options() -> dict[str, Any]:
    """One pass over memory where the compiler would rather make two, exact division, which Triton's
    own is not, and every product and sum rounded by itself."""
    # Not at the top: it takes seconds, which those who run eagerly should not pay.
    from torch._inductor import config

    options: dict[str, Any] = {"realize_reads_threshold": 1000, "realize_opcount_threshold": 1000}
    if hasattr(config, "emulate_precision_casts"):
        # Without it Triton fuses a product and a sum (enable_fp_fusion).
        options["emulate_precision_casts"] = True
    if hasattr(config, "eager_numerics"):
        options |= {"eager_numerics.division_rounding": True, "eager_numerics.disable_ftz": True}
    return options


def _has_blocks(args: tuple[Any, ...]) -> bool:
    return next((tensor.shape[0] > 1 for tensor in _tensors(args) if tensor.ndim > 1), False)


def _tensors(args: tuple[Any, ...]) -> Iterator[Tensor]:
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, (list, tuple)):
            yield from _tensors(tuple(arg))


def _is_compiler_failure(error: Exception) -> bool:
    is_disabled = bool(torch._dynamo.config.disable)
    if isinstance(error, OSError):
        # Its cache or the temporary folder; kernels themselves read and write no file.
        return True
    return is_disabled or type(error).__module__.startswith(("torch._inductor", "torch._dynamo"))


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)

"""The optimizers of levels (design, section 2): sign_sgd, compressed_sgd, compressed_sgd_vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from compsgd.alphabet import Alphabet, sum_alphabet
from compsgd.binning import BINNINGS, empty_range
from compsgd.checks import check_choice, check_decay
from compsgd.coins import CoinedPiece
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange
from compsgd.flat import Run
from compsgd.gradient_parts import GradientParts
from compsgd.kernels import range_codes, sign_codes
from compsgd.level_optimizer import LevelOptimizer, VotingOptimizer

if TYPE_CHECKING:
    from compsgd.native import Coins, NativeCodec


class SignSGD(VotingOptimizer):
    """signSGD with majority vote: one bit an element (Bernstein et al. 2018; design, section 2)."""

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        rand_zero: bool = True,
        count_usages: bool = False,
        compile: str = "auto",
        seed: int = 0,
        num_workers: int = 1,
        exchange: Exchange | None = None,
        strict: bool = False,
    ) -> None:
        """Args: as for CompressedSGD; there is no range, and num_bits is 1."""
        super().__init__(
            params,
            lr,
            num_bits=1,
            rand_zero=rand_zero,
            count_usages=count_usages,
            compile=compile,
            seed=seed,
            num_workers=num_workers,
            exchange=exchange,
            strict=strict,
        )

    def _make_all_codes(
        self,
        codec: NativeCodec,
        codes: Tensor,
        worker: int,
        gradient: GradientParts,
        coins: Coins,
        absent: Sequence[Run],
    ) -> None:
        codec.code_signs(codes, gradient.flat(), coins)

    def _make_codes(
        self, out: Tensor, worker: int, gradient: Tensor, part: CoinedPiece, absent: Sequence[Run]
    ) -> None:
        args = out, part.piece.rows(gradient[part.run.slice]), part.coins
        self.kernels.run(sign_codes, part.piece.num_blocks, *args, alphabet=self._alphabet)


class CompressedSGD(LevelOptimizer):
    """Gradients discretised to num_bits against each worker's decaying running range; the update
    is lr times the exact mean of the levels (design, section 2)."""

    is_vote = False
    _kept_attributes = (*LevelOptimizer._kept_attributes, "binning", "decay_min", "decay_max")

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        num_bits: int = 3,
        binning: str = "lin",
        decay_min: float = 1.0,
        decay_max: float = 1.0,
        rand_zero: bool = True,
        count_usages: bool = False,
        compile: str = "auto",
        seed: int = 0,
        num_workers: int = 1,
        exchange: Exchange | None = None,
        strict: bool = False,
    ) -> None:
        """
        Args:
            params: parameters or groups of them in model order, the same on every process; a
                group may have its own lr.
            lr: how far a parameter moves for each level.
            num_bits: 1 to 8, the bits of a level on the wire. The largest is 2^(num_bits-1).
            binning: "lin" or "exp".
            decay_min, decay_max: in (0, 1]; what the running minimum and maximum shrink by in
                every round. Less means more elements in the outermost bins.
            rand_zero: whether a level 0 becomes -1 or +1 at random. Otherwise zeros are kept, at
                up to one more bit an element.
            count_usages: whether `bin_counts` grows by one int64 array, shape (2^num_bits + 1,),
                in every step: how many elements of the update had level -L, ..., L.
            compile: what is compiled: "native", what there are loops for (`compsgd.loops`), on a
                CPU; "on", the rest by torch.compile, too; "off", nothing; or "auto", which
                chooses by the size of the model, see `compsgd.compiling.choose`.
            seed: fixes every random bit; the same on every process.
            num_workers: N, the workers that vote; all of them live in this process, unless an
                exchange says otherwise.
            exchange: carries ballots between processes, see `compsgd.comm`.
            strict: whether a gradient that is not finite is an error instead of sitting out.

        Raises:
            CompsgdError: an argument out of bounds.
        """
        self.binning = check_choice("binning", binning, BINNINGS)
        self.decay_min = check_decay("decay_min", decay_min)
        self.decay_max = check_decay("decay_max", decay_max)
        super().__init__(
            params,
            lr,
            num_bits=num_bits,
            rand_zero=rand_zero,
            count_usages=count_usages,
            compile=compile,
            seed=seed,
            num_workers=num_workers,
            exchange=exchange,
            strict=strict,
        )
        self._global["ranges"] = {}
        self._extend_ranges()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._extend_ranges()

    def worker_range(self, worker: int) -> tuple[Tensor, Tensor]:
        """The running (maximum, minimum) of a hosted worker; flat float32, infinite where it has
        seen no gradient yet."""
        saved = self._global["ranges"].get(worker)
        if saved is None:
            raise CompsgdError(f"worker {worker} is not hosted by this process")
        return saved["max"], saved["min"]

    @property
    def _coder(self) -> NativeCodec | None:
        return super()._coder if self.binning == "lin" else None

    def _make_all_codes(
        self,
        codec: NativeCodec,
        codes: Tensor,
        worker: int,
        gradient: GradientParts,
        coins: Coins,
        absent: Sequence[Run],
    ) -> None:
        bounds, decays = self.worker_range(worker), (self.decay_max, self.decay_min)
        for run, values in gradient.parts:
            own = [bound[run.slice] for bound in bounds]
            codec.code_levels(codes[run.slice], values, own, decays, coins, run.start)
        for run in absent:
            # As if of gradients 0, which the range does not see.
            zero = torch.zeros(run.numel)
            unseen = [bound[run.slice].clone() for bound in bounds]
            codec.code_levels(codes[run.slice], zero, unseen, decays, coins, run.start)

    def _make_codes(
        self, out: Tensor, worker: int, gradient: Tensor, part: CoinedPiece, absent: Sequence[Run]
    ) -> None:
        bounds = self.worker_range(worker)
        outside = [bound[run.slice] for bound in bounds for run in absent]
        before = [values.clone() for values in outside]
        piece, run, coins = part
        rows = [piece.rows(flat[run.slice]) for flat in (gradient, *bounds)]
        self.kernels.run(
            range_codes,
            piece.num_blocks,
            out,
            *rows,
            torch.tensor(
                [self.decay_max, self.decay_min], dtype=torch.float32, device=self._device
            ),
            coins,
            alphabet=self._alphabet,
            num_bits=self.num_bits,
            binning=self.binning,
        )
        if piece.is_tail:
            for bound, updated in zip(bounds, rows[1:], strict=True):
                bound[run.slice] = piece.flat(updated)
        for values, kept in zip(outside, before, strict=True):
            values.copy_(kept)

    @property
    def _tally_alphabet(self) -> Alphabet:
        return sum_alphabet(self.num_bits, self.exchange.num_workers)

    def _extend_ranges(self) -> None:
        """Gives parameters that are new a range that has seen nothing."""
        ranges = self._global.get("ranges")
        if ranges is None:
            return
        for worker in self.exchange.hosted:
            known = ranges.get(worker)
            missing = self._layout.numel - (known["max"].numel() if known else 0)
            bounds = dict(zip(("max", "min"), empty_range(missing, self._device), strict=True))
            if known:
                bounds = {name: torch.cat([known[name], bounds[name]]) for name in bounds}
            ranges[worker] = bounds

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {
            "binning": self.binning,
            "decay_min": self.decay_min,
            "decay_max": self.decay_max,
        }

    def _own_state(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        own = super()._own_state(state_dict)
        saved = state_dict["state"]["ranges"]
        absent = [worker for worker in self.exchange.hosted if worker not in saved]
        if absent:
            raise CompsgdError(
                f"this state_dict has no range of worker {absent[0]}, only of {sorted(saved)}"
            )
        own["ranges"] = {
            worker: {name: self._checked_bound(saved[worker][name]) for name in ("max", "min")}
            for worker in self.exchange.hosted
        }
        return own

    def _checked_bound(self, bound: Tensor) -> Tensor:
        if bound.shape != (self._layout.numel,) or bound.dtype != torch.float32:
            raise CompsgdError(
                f"this state_dict's range is {bound.dtype} of shape {tuple(bound.shape)}; these "
                f"parameters need float32 of shape ({self._layout.numel},)"
            )
        return bound.detach().clone().to(self._device)


class CompressedSGDVote(VotingOptimizer, CompressedSGD):
    """As CompressedSGD, but the workers vote: the update is lr times the mean level rounded away
    from zero, which travels in as few bits as a ballot (design, section 2, step 4)."""

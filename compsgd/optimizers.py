"""The optimizers (design, section 2): sgd, sign_sgd, compressed_sgd, compressed_sgd_vote."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from compsgd.alphabet import max_level
from compsgd.ballot import BallotHeader
from compsgd.binning import BINNINGS, discretise, empty_range, signs, update_range
from compsgd.checks import check_choice, check_decay, check_num_bits
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange
from compsgd.packing import pack_checked, packed_num_bytes, unpack
from compsgd.randomness import BREAK_TIE, BREAK_ZERO, break_zeros, derive_key
from compsgd.round_optimizer import Ballot, Electorate, RoundOptimizer
from compsgd.vote import mean, sum_dtype, vote


class SGD(RoundOptimizer):
    """Plain SGD on the mean of all workers' gradients, summed in worker order: the float32
    baseline, with the same interface as the others and the same weights for any number of
    processes."""

    symbol_bits = 32
    zeros = True

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        num_workers: int = 1,
        exchange: Exchange | None = None,
        strict: bool = False,
    ) -> None:
        """Args: as for CompressedSGD."""
        super().__init__(
            params, lr, seed=0, num_workers=num_workers, exchange=exchange, strict=strict
        )

    def _make_payload(self, worker: int, gradient: Tensor, present: Sequence[bool]) -> Tensor:
        return gradient

    def _blank_payload(self) -> Tensor:
        return torch.zeros(self._layout.numel, device=self._device)

    def _exchange_ballots(self, ballots: Sequence[Ballot]) -> tuple[list[BallotHeader], Tensor]:
        rows = torch.stack([ballot.header.to_tensor() for ballot in ballots]).to(self._device)
        headers = self._read_headers(self.exchange.all_gather(rows))
        return headers, self.exchange.all_reduce_sum([ballot.payload for ballot in ballots])

    def _combine(self, electorates: Sequence[Electorate], payloads: Any) -> Tensor:
        total: Tensor = payloads
        for electorate in electorates:
            total[electorate.run.slice] /= len(electorate.workers)
        return total


class _LevelOptimizer(RoundOptimizer):
    """Ballots of packed levels. Subclasses say how levels come about and how sums combine."""

    _kept_attributes = (
        *RoundOptimizer._kept_attributes,
        "num_bits",
        "symbol_bits",
        "zeros",
        "rand_zero",
        "count_usages",
        "bin_counts",
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        num_bits: int,
        rand_zero: bool,
        count_usages: bool,
        seed: int,
        num_workers: int,
        exchange: Exchange | None,
        strict: bool,
    ) -> None:
        self.num_bits = self.symbol_bits = check_num_bits(num_bits)
        self.rand_zero = bool(rand_zero)
        self.zeros = not self.rand_zero
        self.count_usages = bool(count_usages)
        self.bin_counts: list[npt.NDArray[np.int64]] = []
        super().__init__(
            params, lr, seed=seed, num_workers=num_workers, exchange=exchange, strict=strict
        )

    def _make_levels(self, worker: int, gradient: Tensor, present: Sequence[bool]) -> Tensor:
        """The levels of a worker's gradient, zeros not yet broken; int16."""
        raise NotImplementedError

    def _decide(self, level_sum: Tensor, num_voters: int, start: int) -> tuple[Tensor, Tensor]:
        """The update of a run of elements from `start` on, and the levels it counts as."""
        raise NotImplementedError

    def _make_payload(self, worker: int, gradient: Tensor, present: Sequence[bool]) -> Tensor:
        levels = self._make_levels(worker, gradient, present)
        if self.rand_zero:
            break_zeros(levels, derive_key(self.seed, BREAK_ZERO, self.round, worker))
        return pack_checked(levels, self.num_bits, self.zeros)

    def _blank_payload(self) -> Tensor:
        num_bytes = packed_num_bytes(self._layout.numel, self.num_bits, self.zeros)
        return torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)

    def _exchange_ballots(self, ballots: Sequence[Ballot]) -> tuple[list[BallotHeader], Tensor]:
        rows = torch.stack(
            [
                torch.cat([ballot.header.to_tensor().to(self._device), ballot.payload])
                for ballot in ballots
            ]
        )
        gathered = self.exchange.all_gather(rows)
        return self._read_headers(gathered), gathered[:, self._header_num_bytes() :]

    def _combine(self, electorates: Sequence[Electorate], payloads: Any) -> Tensor:
        level_sum = self._add_up(electorates, payloads)
        update = torch.zeros(self._layout.numel, device=self._device)
        counted = torch.zeros_like(level_sum)
        for (start, end), workers in electorates:
            update[start:end], counted[start:end] = self._decide(
                level_sum[start:end], len(workers), start
            )
        self._count(counted)
        return update

    def _add_up(self, electorates: Sequence[Electorate], codes: Tensor) -> Tensor:
        """S, the sum of the levels of those who vote on each element; integers."""
        dtype = sum_dtype(self.num_bits, self.exchange.num_workers)
        level_sum = torch.zeros(self._layout.numel, dtype=dtype, device=self._device)
        for worker in self.participants:
            levels = unpack(codes[worker], self._layout.numel, self.num_bits, self.zeros)
            for run, workers in electorates:
                if worker in workers:
                    level_sum[run.slice] += levels[run.slice]
        return level_sum

    def _count(self, levels: Tensor) -> None:
        if not self.count_usages:
            return
        largest = max_level(self.num_bits)
        counts = torch.bincount(levels.to(torch.int64) + largest, minlength=2 * largest + 1)
        self.bin_counts.append(counts.cpu().numpy())

    def _combine_nothing(self) -> None:
        self._count(torch.zeros(self._layout.numel, dtype=torch.int16, device=self._device))

    def _majority(self, level_sum: Tensor, num_voters: int, start: int) -> Tensor:
        voted = vote(level_sum, num_voters)
        if self.rand_zero:
            break_zeros(voted, derive_key(self.seed, BREAK_TIE, self.round), start)
        return voted


class SignSGD(_LevelOptimizer):
    """signSGD with majority vote: one bit an element (Bernstein et al. 2018; design, section 2)."""

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        rand_zero: bool = True,
        count_usages: bool = False,
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
            seed=seed,
            num_workers=num_workers,
            exchange=exchange,
            strict=strict,
        )

    def _make_levels(self, worker: int, gradient: Tensor, present: Sequence[bool]) -> Tensor:
        return signs(gradient)

    def _decide(self, level_sum: Tensor, num_voters: int, start: int) -> tuple[Tensor, Tensor]:
        voted = self._majority(level_sum, num_voters, start)
        return voted.to(torch.float32), voted


class CompressedSGD(_LevelOptimizer):
    """Gradients discretised to num_bits against each worker's decaying running range; the update
    is lr times the exact mean of the levels (design, section 2)."""

    _kept_attributes = (*_LevelOptimizer._kept_attributes, "binning", "decay_min", "decay_max")

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

    def _make_levels(self, worker: int, gradient: Tensor, present: Sequence[bool]) -> Tensor:
        maximum, minimum = self.worker_range(worker)
        levels = torch.zeros(self._layout.numel, dtype=torch.int16, device=self._device)
        for run in self._layout.present_runs(present):
            part, upper, lower = (flat[run.slice] for flat in (gradient, maximum, minimum))
            update_range(upper, lower, part, self.decay_max, self.decay_min)
            levels[run.slice] = discretise(part, upper, lower, self.num_bits, self.binning)
        return levels

    def _decide(self, level_sum: Tensor, num_voters: int, start: int) -> tuple[Tensor, Tensor]:
        return mean(level_sum, num_voters), vote(level_sum, num_voters)

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
        return self._copy(bound)


class CompressedSGDVote(CompressedSGD):
    """As CompressedSGD, but the workers vote: the update is lr times the mean level rounded away
    from zero, which travels in as few bits as a ballot (design, section 2, step 4)."""

    def _decide(self, level_sum: Tensor, num_voters: int, start: int) -> tuple[Tensor, Tensor]:
        voted = self._majority(level_sum, num_voters, start)
        return voted.to(torch.float32), voted

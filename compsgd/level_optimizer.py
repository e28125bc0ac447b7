"""A round whose ballots are packed levels (design, sections 2 and 3)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from compsgd.alphabet import Alphabet, ballot_alphabet, max_level
from compsgd.ballot import BallotHeader
from compsgd.checks import check_choice, check_flag, check_num_bits
from compsgd.coins import CoinedPiece, coined_pieces
from compsgd.compiling import COMPILE_CHOICES, Kernels, choose
from compsgd.electorate import Electorate, parts_within
from compsgd.exchange import Exchange
from compsgd.flat import Run, shard_numel, shard_run
from compsgd.gradient_parts import GradientParts
from compsgd.packing import pack_shard
from compsgd.pieces import shard_size
from compsgd.randomness import BREAK_TIE, BREAK_ZERO, derive_key
from compsgd.round_optimizer import RoundOptimizer
from compsgd.scratch import Scratch
from compsgd.tally import Tally
from compsgd.vote import round_away

if TYPE_CHECKING:
    from compsgd.native import Coins, NativeCodec


class LevelOptimizer(RoundOptimizer):
    """Ballots of packed levels. Subclasses say how levels come about, and whether to vote.

    Attributes:
        is_vote: whether the update is the vote on the levels, or their exact mean.
        bin_counts: see `count_usages` of CompressedSGD.
    """

    is_vote: bool
    _first = 0
    _rows: Tensor | None = None
    _kept_attributes = (
        *RoundOptimizer._kept_attributes,
        "num_bits",
        "symbol_bits",
        "zeros",
        "rand_zero",
        "count_usages",
        "compile",
        "_kernels",
        "_first",
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
        compile: str,
        seed: int,
        num_workers: int,
        exchange: Exchange | None,
        strict: bool,
    ) -> None:
        self.num_bits = self.symbol_bits = check_num_bits(num_bits)
        self.rand_zero = check_flag("rand_zero", rand_zero)
        self.zeros = not self.rand_zero
        self.count_usages = check_flag("count_usages", count_usages)
        self.compile = check_choice("compile", compile, COMPILE_CHOICES)
        self.bin_counts: list[npt.NDArray[np.int64]] = []
        self._kernels: Kernels | None = None
        super().__init__(
            params, lr, seed=seed, num_workers=num_workers, exchange=exchange, strict=strict
        )

    def _make_codes(
        self, out: Tensor, worker: int, gradient: Tensor, part: CoinedPiece, absent: Sequence[Run]
    ) -> None:
        """Writes the codes of one piece of a worker's gradient.

        Args:
            out: rows of elements, where to write them.
            worker: whose gradient it is.
            gradient: the whole flat gradient.
            part: the piece, with the coins for levels 0.
            absent: runs of it, in the flat vector, that have no gradient, where it is 0.
        """
        raise NotImplementedError

    def _make_all_codes(
        self,
        codec: NativeCodec,
        codes: Tensor,
        worker: int,
        gradient: GradientParts,
        coins: Coins,
        absent: Sequence[Run],
    ) -> None:
        """The same for the whole vector, by the loops of `codec`; `codes` is flat."""
        raise NotImplementedError

    @property
    def kernels(self) -> Kernels:
        """How this optimizer runs its kernels, decided when they are first needed."""
        if self._kernels is None:
            choice = choose(self.compile, self._layout.numel, self.exchange.num_workers)
            self._kernels = Kernels(choice, may_fall_back=self.compile == "auto")
        return self._kernels

    @property
    def scratch_bytes(self) -> int:
        """Memory kept from round to round beside the ranges and the packed ballots."""
        return self._codes.size_bytes + self._update.size_bytes

    @functools.cached_property
    def _codes(self) -> Scratch:
        return Scratch(self._alphabet.code_dtype)

    @functools.cached_property
    def _update(self) -> Scratch:
        return Scratch(torch.float32)

    @property
    def _alphabet(self) -> Alphabet:
        return ballot_alphabet(self.num_bits, self.zeros)

    @property
    def _tally_alphabet(self) -> Alphabet:
        """The alphabet that a tally lies in: a vote that of the ballots, a sum its own."""
        raise NotImplementedError

    # A gradient becomes a ballot.

    def _make_payload(
        self, worker: int, gradient: GradientParts, present: Sequence[bool]
    ) -> Tensor:
        """1. The codes of the whole vector. 2. Packed, shard by shard."""
        layout = self._layout
        codes = self._codes.flat(layout.numel, self._device)
        self._write_codes(codes, worker, gradient, present)
        payload = self._row(self.exchange.hosted.index(worker))[:, self._header_num_bytes() :]
        for shard, packed in enumerate(payload):
            run = shard_run(layout.numel, self.exchange.num_shards, shard)
            pack_shard(packed, codes[run.slice], self._alphabet, self.kernels)
        return payload

    def _write_codes(
        self, codes: Tensor, worker: int, gradient: GradientParts, present: Sequence[bool]
    ) -> None:
        """Writes the codes of a worker's gradient: by loops where there are any, or piece by piece.

        Args:
            codes: of the whole vector, where to write them.
            worker: whose gradient it is.
            gradient: of the whole vector.
            present: by parameter, whether it has one.
        """
        key = derive_key(self.seed, BREAK_ZERO, self.round, worker) if self.rand_zero else None
        absent = self._layout.absent_runs(present)
        codec = self._coder
        if codec is not None and key is not None:
            coins = codec.coins(key, self._first, self._layout.numel)
            self._make_all_codes(codec, codes, worker, gradient, coins, absent)
            return
        flat, whole = gradient.flat(), Run(0, self._layout.numel)
        settings = self._first, self._alphabet, key, self.kernels, self._device
        for part in coined_pieces(whole, *settings):
            absent_here = [run for a in absent if (run := a.within(part.run)).numel]
            place = codes[part.run.slice]
            out = part.piece.rows(place)
            self._make_codes(out, worker, flat, part, absent_here)
            if part.piece.is_tail:
                place.copy_(part.piece.flat(out))

    @property
    def _coder(self) -> NativeCodec | None:
        """The loops that `_make_all_codes` works with; None where `_make_codes` does the work."""
        return self.kernels.codec(self._alphabet, self._device)

    def _row(self, slot: int) -> Tensor:
        """Where a hosted worker's ballot is written, headers and all, in one buffer for all."""
        hosted, num_shards = self.exchange.hosted, self.exchange.num_shards
        num_bytes = self._header_num_bytes() + self._shard_size(num_shards)
        shape = (len(hosted), num_shards, num_bytes)
        if self._rows is None or self._rows.shape != shape:
            self._rows = torch.empty(shape, dtype=torch.uint8, device=self._device)
        return self._rows[slot]

    def _blank_payload(self) -> Tensor:
        """Packed codes by shard, with no bit set; uint8, shape (num_shards, num_bytes)."""
        num_shards = self.exchange.num_shards
        num_bytes = self._shard_size(num_shards)
        return torch.zeros(num_shards, num_bytes, dtype=torch.uint8, device=self._device)

    def _shard_size(self, num_shards: int) -> int:
        return shard_size(shard_numel(self._layout.numel, num_shards), self._alphabet)

    def _exchange_ballots(self) -> tuple[list[BallotHeader], Tensor]:
        """Every shard travels behind its ballot's header: whoever counts it knows who votes."""
        header_bytes = self._header_num_bytes()
        for slot, worker in enumerate(self.exchange.hosted):
            row, payload = self._row(slot), self._hosted_payload(worker)
            row[:, :header_bytes] = self._hosted_header(worker)
            if payload.data_ptr() != row[:, header_bytes:].data_ptr():
                row[:, header_bytes:] = payload
        assert self._rows is not None
        logical = self._shard_size(self.exchange.logical_num_shards)
        received = self.exchange.distribute(self._rows, header_bytes + logical)
        return self._read_headers(received), received[:, header_bytes:]

    # Ballots become an update.

    def _combine(
        self, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Iterator[tuple[Run, Tensor]]:
        counts = np.zeros(2 * max_level(self.num_bits) + 1, dtype=np.int64)
        for run, update in self._tally().updates(electorates, payloads):
            if self.count_usages:
                for voted, _ in parts_within(electorates, run):
                    counts += self._count(update[voted.shifted(-run.start).slice])
            yield run, update
        self._note_counts(counts)

    def _tally(self) -> Tally:
        """The counting of this round."""
        breaks_ties = self.is_vote and self.rand_zero
        return Tally(
            numel=self._layout.numel,
            first=self._first,
            alphabet=self._alphabet,
            out_alphabet=self._tally_alphabet,
            is_vote=self.is_vote,
            tie_key=derive_key(self.seed, BREAK_TIE, self.round) if breaks_ties else None,
            exchange=self.exchange,
            kernels=self.kernels,
            codes=self._codes if self.is_vote else Scratch(self._tally_alphabet.code_dtype),
            update=self._update,
        )

    # Bin usage.

    def _count(self, update: Tensor) -> npt.NDArray[np.int64]:
        largest = max_level(self.num_bits)
        bins = round_away(update).to(torch.int64) + largest
        return torch.bincount(bins, minlength=2 * largest + 1).cpu().numpy()

    def _note_counts(self, counts: npt.NDArray[np.int64]) -> None:
        if self.count_usages:
            # What nobody votes on stays where it is.
            counts[max_level(self.num_bits)] += self._layout.numel - counts.sum()
            self.bin_counts.append(counts)

    def _combine_nothing(self) -> None:
        self._note_counts(np.zeros(2 * max_level(self.num_bits) + 1, dtype=np.int64))

    # State.

    def state_dict(self) -> dict[str, Any]:
        """With the bin counts as one tensor, shape (steps, 2^num_bits + 1)."""
        state_dict = super().state_dict()
        num_levels = 2 * max_level(self.num_bits) + 1
        counts = np.array(self.bin_counts, dtype=np.int64).reshape(-1, num_levels)
        state_dict["state"]["bin_counts"] = torch.from_numpy(counts)
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.bin_counts = list(state_dict["state"]["bin_counts"].cpu().numpy().copy())


class VotingOptimizer(LevelOptimizer):
    """The tally is the majority, one level of the ballots' alphabet."""

    is_vote = True

    @property
    def _tally_alphabet(self) -> Alphabet:
        return self._alphabet

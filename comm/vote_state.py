"""The state of `vote_hook`, as torch's own communication hooks have one."""

import logging
from collections import deque
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compsgd.checks import check_integer
from compsgd.comm.agreement import check_agreement
from compsgd.comm.collectives import Collectives
from compsgd.comm.cost import ring_all_reduce
from compsgd.comm.ledger import Ledger, Purpose
from compsgd.comm.presence import Presence
from compsgd.comm.vote_settings import VoteSettings
from compsgd.comm.voted_params import VotedParams
from compsgd.comm.voter import Voter
from compsgd.errors import CompsgdError

log = logging.getLogger("compsgd")

# A training of millions of steps must not fill the memory with their bytes.
_KEPT_STEPS = 1000


class VoteState:
    """Settings and state of `vote_hook`, one for each model.

    Attributes:
        process_group: over whose processes; None for all. Its collectives run on a group of their
            own made from it in the first backward, so that they meet none of DDP's. Where it is
            not of all processes, torch counts that group on its members alone: a later
            new_group of all processes then needs use_local_synchronization, too.
        settings: the arguments, checked.
        iteration: how many backward passes have been synchronised.
        ledger: the bytes of the last 1000 steps, and of all of them together.
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup | None = None,
        params: Iterable[Tensor] | None = None,
        *,
        num_bits: int = 3,
        binning: str = "lin",
        decay_min: float = 1.0,
        decay_max: float = 1.0,
        rand_zero: bool = True,
        scale: float | str = 1.0,
        exchange: str = "auto",
        min_compress_numel: int = 0,
        exempt_1d: bool = False,
        start_vote_iter: int = 0,
        seed: int = 0,
        compile: str = "auto",
        timeout_s: float = 1800.0,
    ) -> None:
        """
        Args:
            process_group: over whose processes; None for all.
            params: the model's parameters in its order; `wrap` fills them in.
            num_bits, binning, decay_min, decay_max, rand_zero, seed, compile: as for
                compsgd.CompressedSGDVote.
            scale: what a level becomes as a gradient. A number: itself times that, so that with 1
                plain SGD moves a parameter by lr for each level. "mean_abs": each tensor's mean
                absolute value is the mean of its workers', so that learning rates and adaptive
                optimizers keep their meaning, for 4 more bytes a tensor.
            exchange: "auto", "all_gather" or "scatter_reduce".
            min_compress_numel: smaller parameters are averaged in float32.
            exempt_1d: whether vectors and scalars (norms, biases) are, too.
            start_vote_iter: iterations before the first vote, with plain averages.
            timeout_s: how long a collective may take.

        Raises:
            CompsgdError: an argument out of bounds.
        """
        self.process_group = process_group
        self.settings = VoteSettings(
            num_bits=num_bits, binning=binning, decay_min=decay_min, decay_max=decay_max,
            rand_zero=rand_zero, scale=scale, exchange=exchange,
            min_compress_numel=min_compress_numel, exempt_1d=exempt_1d,
            start_vote_iter=start_vote_iter, seed=seed, compile=compile, timeout_s=timeout_s,
        )  # fmt: skip
        self.iteration = 0
        self.ledger = _short_ledger()
        self._saved: dict[str, Tensor] | None = None
        self._voter: Voter | None = None
        self._params: VotedParams | None = None
        self._presence: Presence | None = None
        if params is not None:
            self.params = list(params) if isinstance(params, Iterable) else params

    @property
    def params(self) -> list[Tensor] | None:
        """The model's parameters in its order, without those that need no gradient. Set anew, they
        keep the range if it is of their size."""
        return None if self._params is None else self._params.all

    @params.setter
    def params(self, params: Iterable[Tensor]) -> None:
        known = VotedParams(self.settings, params)
        ranges = self._ranges()
        if ranges is not None and _numel(ranges) != known.layout.numel:
            raise CompsgdError(_other_size(ranges, known))
        self.release()
        self._saved, self._voter = ranges, None
        self._params = known
        self._presence = Presence(known.all)

    @property
    def voter(self) -> Voter:
        """Made when it is first needed: all processes come here together, and compare what must be
        alike."""
        if self._voter is None:
            if self._params is None or self._presence is None:
                raise CompsgdError(
                    "VoteState does not know the model's parameters: hand it "
                    "params=model.parameters(), or use compsgd.comm.wrap(ddp)"
                )
            self._voter = Voter(self.settings, self._params, self._presence, self._connect())
            self._voter.load_ranges(self._saved)
            self._saved = None
        return self._voter

    def release(self) -> None:
        """Stops watching the parameters: for a state that is not used after all."""
        if self._presence is not None:
            self._presence.remove()

    def state_dict(self) -> dict[str, Any]:
        """This rank's: the iteration, the range, and the settings that they belong to."""
        return {
            "iteration": self.iteration,
            "ranges": self._ranges(),
            "settings": self.settings.lasting(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` has saved on this rank; nothing changes if it does not fit.

        Raises:
            CompsgdError: of other settings, of other parameters, or of something else.
        """
        settings, ranges, iteration = _parts_of(state_dict)
        for name, value in self.settings.lasting().items():
            saved = settings.get(name)
            if saved != value:
                raise CompsgdError(
                    f"this state_dict was saved with {name}={saved!r}; here it is {value!r}"
                )
        if ranges is not None and self._params and _numel(ranges) != self._params.layout.numel:
            raise CompsgdError(_other_size(ranges, self._params))
        self.iteration = iteration
        self._saved = ranges
        if self._voter is not None:
            self._voter.load_ranges(ranges)
            self._saved = None

    def summary(self) -> str:
        """Bytes that this process has sent a step, beside a float32 ring all-reduce, as a table."""
        if not self.ledger.num_steps:
            return "no step yet"
        sent = self.ledger.wire[Purpose.GRADIENT].sent_bytes / self.ledger.num_steps
        numel = sum(parameter.numel() for parameter in self.params or [])
        uncompressed = ring_all_reduce(numel, self.voter.world_size)
        rows = [
            ("steps", f"{self.ledger.num_steps:,}"),
            ("bytes sent a step", f"{sent:,.0f}"),
            ("float32 all-reduce", f"{uncompressed:,}"),
            ("compression", f"{uncompressed / sent:.2f}x" if sent else "-"),
        ]
        width = max(len(value) for _, value in rows)
        return "\n".join(f"{name:<18}  {value:>{width}}" for name, value in rows)

    def __getstate__(self) -> dict[str, Any]:
        """Without the group, the parameters and whatever runs: another process has its own."""
        log.warning("a pickled VoteState has neither its process group nor its parameters")
        return {
            "settings": self.settings,
            "iteration": self.iteration,
            "_saved": self._ranges(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["settings"].as_dict())  # type: ignore[misc]
        self.iteration = state["iteration"]
        self._saved = state["_saved"]

    def _ranges(self) -> dict[str, Tensor] | None:
        return self._saved if self._voter is None else self._voter.ranges()

    def _connect(self) -> Collectives:
        """A group of our own over the same processes, which agree on what they are to do."""
        if not dist.is_initialized():
            raise CompsgdError("torch.distributed is not initialised")
        parent = self.process_group or dist.group.WORLD
        timeout = timedelta(seconds=self.settings.timeout_s)
        ranks = dist.get_process_group_ranks(parent)
        is_all = len(ranks) == dist.get_world_size()
        try:
            group: Any = dist.new_group(
                ranks,
                timeout=timeout,
                backend=dist.get_backend_config(parent),
                use_local_synchronization=not is_all,
            )
        except RuntimeError as error:
            raise CompsgdError(
                f"not all of the {len(ranks)} processes came to their first vote within "
                f"{self.settings.timeout_s:g} s; every rank must have the hook: {error}"
            ) from error
        size = len(ranks)
        bookkeeping = Collectives(self.ledger, Purpose.BOOKKEEPING, size, group, timeout)
        check_agreement(bookkeeping, self._facts())
        return Collectives(self.ledger, Purpose.GRADIENT, size, group, timeout)

    def _facts(self) -> dict[str, str]:
        """What must be alike on all processes."""
        assert self._params is not None
        facts = {name: repr(value) for name, value in self.settings.shared().items()}
        return facts | {
            "the iteration": str(self.iteration),
            "the model's parameters (a digest)": self._params.digest(),
        }


def _short_ledger() -> Ledger:
    return Ledger(steps=deque(maxlen=_KEPT_STEPS))


def _numel(ranges: dict[str, Tensor]) -> int:
    return ranges["max"].numel()


def _other_size(ranges: dict[str, Tensor], params: VotedParams) -> str:
    return (
        f"this range is of {_numel(ranges)} elements; these parameters have {params.layout.numel} "
        "to vote on"
    )


def _parts_of(state_dict: Any) -> tuple[dict[str, Any], dict[str, Tensor] | None, int]:
    """Settings, ranges and iteration of a saved state; raises CompsgdError for anything else."""
    if not isinstance(state_dict, dict) or not isinstance(state_dict.get("settings"), dict):
        raise CompsgdError("this state_dict has no settings: it is no VoteState's")
    if not {"ranges", "iteration"} <= set(state_dict):
        raise CompsgdError("this state_dict has no ranges, or no iteration: it is no VoteState's")
    ranges = state_dict["ranges"]
    if ranges is not None and not _are_ranges(ranges):
        raise CompsgdError("this state_dict's ranges are not two float32 vectors, max and min")
    iteration = check_integer("this state_dict's iteration", state_dict["iteration"], 0)
    return state_dict["settings"], ranges, iteration


def _are_ranges(ranges: Any) -> bool:
    if not isinstance(ranges, dict) or set(ranges) != {"max", "min"}:
        return False
    bounds = list(ranges.values())
    return (
        all(isinstance(one, Tensor) and one.dtype == torch.float32 for one in bounds)
        and bounds[0].ndim == 1
        and bounds[0].shape == bounds[1].shape
    )

"""The state of `vote_hook`, as torch's own communication hooks have one."""

from collections import deque
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from compsgd.comm.collectives import Collectives
from compsgd.comm.cost import ring_all_reduce
from compsgd.comm.ledger import Ledger, Purpose
from compsgd.comm.presence import Presence
from compsgd.comm.vote_settings import VoteSettings
from compsgd.comm.voter import Voter
from compsgd.errors import CompsgdError

# A training of millions of steps must not fill the memory with their bytes.
_KEPT_STEPS = 1000


class VoteState:
    """Settings and state of `vote_hook`, one for each model.

    Attributes:
        process_group: over whose processes; None for all. Its collectives run on a group of their
            own made from it, so that they meet none of DDP's.
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
        self._params: list[Tensor] | None = None
        self._presence: Presence | None = None
        if params is not None:
            self.params = list(params)

    @property
    def params(self) -> list[Tensor] | None:
        """The model's parameters in its order, without those that need no gradient."""
        return self._params

    @params.setter
    def params(self, params: Iterable[Tensor]) -> None:
        if self._presence is not None:
            self._presence.remove()
        self._params = [parameter for parameter in params if parameter.requires_grad]
        self._presence = Presence(self._params)
        self._voter = None

    @property
    def voter(self) -> Voter:
        """Made when it is first needed: all processes come here together."""
        if self._voter is None:
            if self._params is None or self._presence is None:
                raise CompsgdError(
                    "VoteState does not know the model's parameters: hand it "
                    "params=model.parameters(), or use compsgd.comm.wrap(ddp)"
                )
            self._voter = Voter(self.settings, self._params, self._presence, self._connect())
            if self._saved is not None:
                self._voter.load_ranges(self._saved)
                self._saved = None
        return self._voter

    def state_dict(self) -> dict[str, Any]:
        """This rank's: the iteration, the range, and the settings that they belong to."""
        ranges = self._saved if self._voter is None else self._voter.ranges()
        return {
            "iteration": self.iteration,
            "ranges": ranges,
            "settings": self.settings.lasting(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` has saved on this rank.

        Raises:
            CompsgdError: of other settings, of other parameters, or of something else.
        """
        absent = [name for name in ("iteration", "ranges", "settings") if name not in state_dict]
        if absent:
            raise CompsgdError(f"this state_dict has no {', '.join(absent)}: it is no VoteState's")
        for name, value in self.settings.lasting().items():
            saved = state_dict["settings"].get(name)
            if saved != value:
                raise CompsgdError(
                    f"this state_dict was saved with {name}={saved!r}; here it is {value!r}"
                )
        ranges = state_dict["ranges"]
        if self._voter is None:
            self._saved = ranges
        elif ranges is not None:
            self._voter.load_ranges(ranges)
        else:
            self._voter.forget_ranges()
        self.iteration = int(state_dict["iteration"])

    def summary(self) -> str:
        """Bytes that this process has sent a step, beside a float32 ring all-reduce, as a table."""
        if not self.ledger.num_steps:
            return "no step yet"
        sent = self.ledger.wire[Purpose.GRADIENT].sent_bytes / self.ledger.num_steps
        numel = sum(parameter.numel() for parameter in self._params or [])
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
        return {
            "settings": self.settings,
            "iteration": self.iteration,
            "_saved": self.state_dict()["ranges"],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["settings"].as_dict())  # type: ignore[misc]
        self.iteration = state["iteration"]
        self._saved = state["_saved"]

    def _connect(self) -> Collectives:
        if not dist.is_initialized():
            raise CompsgdError("torch.distributed is not initialised")
        parent = self.process_group or dist.group.WORLD
        timeout = timedelta(seconds=self.settings.timeout_s)
        ranks = dist.get_process_group_ranks(parent)
        group: Any = dist.new_group(ranks, timeout=timeout, use_local_synchronization=True)
        size = dist.get_world_size(parent)
        return Collectives(self.ledger, Purpose.GRADIENT, size, group, timeout)


def _short_ledger() -> Ledger:
    return Ledger(steps=deque(maxlen=_KEPT_STEPS))

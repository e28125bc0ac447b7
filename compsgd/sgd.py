"""A round whose ballots are float32 gradients: the uncompressed baseline."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from compsgd.ballot import BallotHeader
from compsgd.checks import check_integer
from compsgd.electorate import Electorate
from compsgd.errors import CompsgdError
from compsgd.exchange import Exchange
from compsgd.flat import Run
from compsgd.gradient_parts import GradientParts
from compsgd.round_optimizer import RoundOptimizer
from compsgd.vote import mean


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
        self._global.update({"shard_sum": None, "num_added": 0})

    @torch.no_grad()
    def compress(self, worker: int = 0) -> None:
        """As everywhere; but gradients of lower workers are then on their way, and can no longer
        be replaced: a process keeps one gradient, however many workers it hosts."""
        slot = check_integer("worker", worker, 0, len(self.exchange.hosted) - 1)
        if slot < self._global["num_added"]:
            raise CompsgdError(
                f"worker {slot} compressed after a higher one; its gradient is already added up"
            )
        self._add_slots(slot)
        super().compress(worker)

    def _make_payload(
        self, worker: int, gradient: GradientParts, present: Sequence[bool]
    ) -> Tensor:
        flat = gradient.flat()
        # The caller may go on to use the buffer that the gradients are views of.
        return flat.clone() if _is_in_use(flat, self._parameters()) else flat

    def _blank_payload(self) -> Tensor:
        return torch.zeros(self._layout.numel, dtype=torch.float32, device=self._device)

    def _add_slots(self, end: int) -> None:
        """Adds up the gradients of the hosted workers below `end`, and lets go of them."""
        state = self._global
        for slot in range(state["num_added"], end):
            if state["shard_sum"] is None:
                state["shard_sum"] = self.exchange.new_sum(self._layout.numel, self._device)
            worker = self.exchange.hosted[slot]
            self.exchange.add_to_sum(state["shard_sum"], slot, self._hosted_payload(worker))
            if worker in state["ballots"]:
                state["ballots"][worker]["payload"] = None
            state["num_added"] = slot + 1

    def _exchange_ballots(self) -> tuple[list[BallotHeader], Tensor]:
        self._add_slots(len(self.exchange.hosted))
        rows = torch.stack([self._hosted_header(worker) for worker in self.exchange.hosted])
        headers = self._read_headers(self.exchange.all_gather(rows.to(self._device)))
        total = self.exchange.collect_sum(self._global["shard_sum"], self._layout.numel)
        self._global.update({"shard_sum": None, "num_added": 0})
        return headers, total

    def _combine(
        self, electorates: Sequence[Electorate], payloads: Tensor
    ) -> Iterator[tuple[Run, Tensor]]:
        for run, workers in electorates:
            yield run, mean(payloads[run.slice], len(workers))

    def state_dict(self) -> dict[str, Any]:
        """With the sum as it is now: it grows while the round goes on."""
        state_dict = super().state_dict()
        state_dict["state"]["shard_sum"] = self._copy(self._global["shard_sum"])
        return state_dict

    def _own_state(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        own = super()._own_state(state_dict)
        state = state_dict["state"]
        shard_sum = state["shard_sum"]
        num_added = int(state["num_added"])
        if not 0 <= num_added <= len(self.exchange.hosted):
            raise CompsgdError(f"this state_dict has added up {num_added} workers' gradients")
        if shard_sum is not None:
            expected = self.exchange.new_sum(self._layout.numel, self._device)
            if shard_sum.shape != expected.shape:
                raise CompsgdError("this state_dict's unfinished sum has another size")
            shard_sum = self._copy(shard_sum)
        return own | {"shard_sum": shard_sum, "num_added": num_added}


def _is_in_use(gradient: Tensor, parameters: Sequence[Tensor]) -> bool:
    storages = {
        parameter.grad.untyped_storage().data_ptr()
        for parameter in parameters
        if parameter.grad is not None and parameter.grad.layout == torch.strided
    }
    return gradient.untyped_storage().data_ptr() in storages

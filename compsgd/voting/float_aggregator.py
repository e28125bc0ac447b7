"""One round of N workers that send float32 gradients: the uncompressed baseline."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from compsgd.codec.combine import mean
from compsgd.codec.wire import RoundFormat, WireFormat
from compsgd.errors import SettingError
from compsgd.gradient import Gradient
from compsgd.kinds import Kind, ScalarInteger, TensorOf
from compsgd.layout import FlatLayout, Span
from compsgd.voting.ballot import BallotBox, header_num_bytes, voters_of
from compsgd.voting.exchange import Exchange
from compsgd.voting.float_sum import FloatSum
from compsgd.voting.outcome import Outcome

_FLOAT_BITS = 32


class FloatAggregator:
    """An `Aggregator` of the mean gradient over those who take part, summed in worker order.

    A process keeps one gradient, however many workers it hosts: when a worker compresses, the
    gradients of lower ones are on their way, and can no longer be replaced.
    """

    def __init__(
        self,
        layout: FlatLayout,
        parameters: Sequence[Tensor],
        exchange: Exchange,
        device: torch.device,
    ) -> None:
        """
        Args:
            layout: of the flat vector.
            parameters: whose gradients it is given, perhaps as views of one buffer.
            exchange: carries headers and sums.
            device: where the gradients are.
        """
        self.layout = layout
        self.exchange = exchange
        self._parameters = parameters
        self._device = device
        header = WireFormat(0, None, header_num_bytes(len(layout.spans)))
        by_shards = exchange.by_shards()
        self._box = BallotBox(
            layout, by_shards, [RoundFormat(header)], _FLOAT_BITS, zeros=True, device=device
        )
        self._sum = FloatSum(layout.numel, exchange, device)
        self._last: Tensor | None = None

    def compress(self, slot: int, gradient: Gradient, round_: int) -> None:
        """
        Raises:
            SettingError: a higher worker has compressed already.
        """
        if slot < self._sum.num_added:
            raise SettingError(
                f"worker {slot} compressed after a higher one; its gradient is already added up"
            )
        self._add_slots(slot)
        is_finite = all(map(math.isfinite, gradient.sums))
        non_finite = None if is_finite else gradient.first_non_finite()
        if non_finite is not None:
            gradient = gradient.absent()
        self._last = self._kept(gradient)
        worker = self.exchange.hosted[slot]
        self._box.put(slot, self._box.header(worker, round_, gradient.present, non_finite))

    @property
    def cast(self) -> Collection[int]:
        return self._box.cast

    def aggregate(self, round_: int, gradient: Gradient | None = None) -> Outcome:
        if gradient is not None:
            self.compress(0, gradient, round_)
        self._add_slots(len(self.exchange.hosted))
        self._box.close(round_)
        received = self._box.send(0)()
        headers = self._box.headers(received, round_)
        total = self._sum.total()
        self._sum = FloatSum(self.layout.numel, self.exchange, self._device)
        return Outcome(headers, voters_of(headers, self.layout), [received], total)

    def updates(self, outcome: Outcome) -> Iterator[tuple[Span, Tensor]]:
        assert outcome.result is not None
        for span, workers in outcome.voters:
            yield span, mean(outcome.result[span.slice], len(workers))

    def pending(self) -> dict[str, Tensor]:
        pending = self._box.pending()
        if self._sum.num_added:
            pending["sum"] = self._sum.shard.clone()
            pending["num_added"] = torch.tensor(self._sum.num_added)
        if self._last is not None:
            pending["last"] = self._last.clone()
        return pending

    def pending_kinds(self) -> dict[str, Kind]:
        floats = [torch.float32]
        return {
            **self._box.pending_kinds(),
            "sum": TensorOf(self._sum.shard.shape, floats),
            "num_added": ScalarInteger(1, len(self.exchange.hosted)),
            "last": TensorOf((self.layout.numel,), floats),
        }

    def restore(self, pending: Mapping[str, Tensor], round_: int) -> None:
        total = FloatSum(self.layout.numel, self.exchange, self._device)
        if ("sum" in pending) != ("num_added" in pending):
            raise SettingError("this state's unfinished sum does not say of how many gradients")
        if "sum" in pending:
            if pending["sum"].shape != total.shard.shape:
                raise SettingError("this state's unfinished sum has another size")
            total.shard.copy_(pending["sum"])
            total.num_added = int(pending["num_added"])
        if not 0 <= total.num_added <= len(self.exchange.hosted):
            raise SettingError(f"this state has added up {total.num_added} workers' gradients")
        ballots = {name: row for name, row in pending.items() if name.startswith("ballot.")}
        self._box.restore(ballots, round_)
        self._sum = total
        last = pending.get("last")
        self._last = None if last is None else last.clone().to(self._device)

    def _add_slots(self, end: int) -> None:
        """Adds up the gradients of the hosted workers below `end`, and lets go of them."""
        for slot in range(self._sum.num_added, end):
            is_last = slot == max(self._box.cast, default=-1) and self._last is not None
            vector = self._last if is_last else None
            self._sum.add(self._nothing() if vector is None else vector)
            if is_last:
                self._last = None

    def _nothing(self) -> Tensor:
        return torch.zeros(self.layout.numel, dtype=torch.float32, device=self._device)

    def _kept(self, gradient: Gradient) -> Tensor:
        """The flat gradient in memory of its own: the caller may go on to use a buffer that the
        gradients are views of."""
        flat = gradient.flat()
        in_use = {
            parameter.grad.untyped_storage().data_ptr()
            for parameter in self._parameters
            if parameter.grad is not None and parameter.grad.layout == torch.strided
        }
        return flat.clone() if flat.untyped_storage().data_ptr() in in_use else flat

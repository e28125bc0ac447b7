"""Some of an optimizer's parameters, that go through a round together: those that are voted on, or
those that are exempt."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compsgd.gradient import Gradient, gather
from compsgd.layout import Span
from compsgd.optim.bin_usage import BinUsage
from compsgd.optim.update_rules import StepSize, UpdateRule
from compsgd.voting.encoder import Encoder
from compsgd.voting.outcome import Aggregator, Outcome

UPDATES = "updates"


class ParamShare:
    """What takes these parameters from gradients to their update.

    Attributes:
        indices: of the parameters among all of the optimizer's.
        parameters: themselves, in model order.
        layout: of their flat vector.
        encoders: of the hosted workers, by worker; none where gradients are not discretised.
        aggregator: combines gradients.
        rule: moves parameters.
    """

    def __init__(
        self,
        indices: Sequence[int],
        parameters: Sequence[Tensor],
        device: torch.device,
        encoders: Mapping[int, Encoder],
        aggregator: Aggregator,
        rule: UpdateRule,
    ) -> None:
        self.indices = indices
        self.parameters = parameters
        self.layout = aggregator.layout
        self.encoders = encoders
        self.aggregator = aggregator
        self.rule = rule
        self._device = device
        self._kept = [self._fresh_state(parameter) for parameter in parameters]

    def _fresh_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """What the rule keeps of a parameter."""
        state = {
            name: torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
            for name in self.rule.state_names
        }
        return state | ({UPDATES: torch.zeros((), dtype=torch.int64)} if state else {})

    def state(self) -> list[dict[str, Tensor]]:
        """By parameter, what is remembered of it: by the rule, alike on all processes, and by each
        hosted worker, as "max.<worker>", a view of its flat vector."""
        return [
            own
            | {
                f"{name}.{worker}": flat[span.slice].view(parameter.shape)
                for worker, encoder in self.encoders.items()
                for name, flat in encoder.state.items()
            }
            for own, parameter, span in zip(
                self._kept, self.parameters, self.layout.spans, strict=True
            )
        ]

    def gather(self) -> Gradient:
        """The gradients now in `p.grad`."""
        return gather(self.parameters, self.layout, self._device)

    def move(self, outcome: Outcome, sizes: Sequence[StepSize], usage: BinUsage | None) -> None:
        """Applies what a round came to.

        Args:
            sizes: of the step, by parameter.
            usage: counts levels, if anything.
        """
        if usage is not None:
            usage.begin(self.layout.numel)
        collected: dict[int, Tensor] = {}
        for span, update in self.aggregator.updates(outcome):
            if usage is not None:
                usage.add(update)
            for index, part in self.layout.parts_of(span):
                values = update[part.shifted(-span.start).slice]
                place = part.shifted(-self.layout.spans[index].start)
                # Torch rounds the last elements of a half-precision vector in another way, so that
                # results would depend on where it is cut.
                is_half = self.parameters[index].itemsize < values.itemsize
                is_whole = part == self.layout.spans[index]
                if is_whole or (self.rule.takes_parts and not is_half):
                    self._apply(index, place, values, sizes)
                else:
                    kept = collected.setdefault(
                        index, values.new_empty(self.layout.spans[index].numel)
                    )
                    kept[place.slice] = values
        for index, values in collected.items():
            self._apply(index, Span(0, values.numel()), values, sizes)

    def _apply(self, index: int, place: Span, update: Tensor, sizes: Sequence[StepSize]) -> None:
        state = self._kept[index]
        if UPDATES in state:
            state[UPDATES] += 1
        self.rule.apply(self.parameters[index], place, update, sizes[index], state)

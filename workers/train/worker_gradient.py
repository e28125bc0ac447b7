"""The gradient of one worker: forward and backward of its batch, in pieces and at the precision
that the run asks for."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compsgd.optim.flat_gradients import FlatGradients
from compsgd.optim.round_optimizer import RoundOptimizer
from compsgd.workers.data.splits import Split
from compsgd.workers.options import Options
from compsgd.workers.train.checkpoint import State
from compsgd.workers.train.scores import BatchScore, batch_loss, joined

# --amp. Their gradients are float32 in either case, like the weights.
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class WorkerGradient:
    """Computes the gradients of the hosted workers, one after another.

    With `--amp fp16` every worker has a loss scale of its own, so that what it computes does not
    depend on who shares its process. A gradient that overflows stays infinite, for which its worker
    sits out the round, and the scale falls.

    Attributes:
        buffer: the gradient of all trained parameters, one behind the other; float32, shape
            (numel,).
    """

    def __init__(
        self,
        model: nn.Module,
        trained: Sequence[nn.Parameter],
        optimizer: RoundOptimizer,
        items: Split,
        device: torch.device,
        options: Options,
    ) -> None:
        """
        Args:
            trained: the model's parameters that need a gradient, which are the optimizer's.
            items: that are trained on.
        """
        self._model = model
        self._optimizer = optimizer
        self._trained = trained
        self._gradients = FlatGradients(trained)
        self.buffer = self._gradients.buffer
        self._items = items
        self._device = device
        self._piece_size = options.batch_size
        self._clip = options.clip
        self._dtype = _DTYPES.get(options.amp)
        is_scaled = options.amp == "fp16"
        self._scalers = [
            torch.amp.GradScaler(device.type, enabled=is_scaled) for _ in optimizer.exchange.hosted
        ]

    def compute(self, slot: int, index: Tensor) -> BatchScore:
        """Leaves the gradient of the mean loss of some items in `buffer`, of which every
        `parameter.grad` is a view.

        Args:
            slot: of the hosted worker.
            index: the numbers of the items; int64, shape (batch,). They go through the model in
                pieces of `--batch_size`.
        """
        scaler = self._scalers[slot]
        self._gradients.begin()
        scores = [
            self._add(piece, len(piece) / len(index), scaler)
            for piece in index.split(self._piece_size)
        ]
        self._gradients.end()
        if scaler.is_enabled():
            scaler.unscale_(self._optimizer)
            scaler.update()
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self._trained, self._clip)
        return joined(scores)

    def state(self, slot: int) -> State:
        """What a hosted worker's next gradient depends on."""
        return self._scalers[slot].state_dict()

    def restore(self, slot: int, state: State) -> None:
        self._scalers[slot].load_state_dict(state)

    def _add(self, piece: Tensor, share: float, scaler: torch.amp.GradScaler) -> BatchScore:
        """Adds a piece's gradient, for its share of the batch."""
        inputs, labels = self._items.batch(piece, self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            outputs = self._model(inputs)
        loss, score = batch_loss(outputs.float() if self._dtype else outputs, labels)
        scaler.scale(loss * share).backward()
        return score

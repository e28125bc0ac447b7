"""Workers that work against the others (`--adversaries`, `--attack`).

An attack replaces the gradient, so that it is one against every optimizer: with ballots of levels
a negated gradient sends flipped levels, and one that is the same in every round L everywhere.
"""

import torch
from torch import Tensor

from compsgd.rng import derive_key
from compsgd.workers.options import Options


class Attack:
    """What the adversaries among the workers, the last ones, do to their gradients."""

    def __init__(self, options: Options) -> None:
        self._kind = options.attack
        self._seed = options.vote.seed
        self._first = options.num_workers - options.adversaries

    def apply(self, gradient: Tensor, worker: int, round_: int) -> None:
        """Replaces an adversary's gradient, a flat float32 vector, in place.

        "flip": its negative. "random": uniform in [-1, 1]. "constant": 1 everywhere. "nan": NaN.
        """
        if worker < self._first:
            return
        if self._kind == "flip":
            gradient.neg_()
        elif self._kind == "random":
            key = derive_key(self._seed, "random attack", round_, worker)
            generator = torch.Generator().manual_seed(key)
            gradient.copy_(torch.rand(gradient.numel(), generator=generator) * 2 - 1)
        else:
            gradient.fill_(1.0 if self._kind == "constant" else float("nan"))

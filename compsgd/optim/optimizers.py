"""The optimizers: sgd, adamw, sign_sgd, compressed_sgd, compressed_sgd_vote (design, section 2)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from compsgd.optim.round_optimizer import ARGUMENTS, RoundOptimizer
from compsgd.optim.update_rules import Adam, Descent, HeavyBall, UpdateRule
from compsgd.settings import (
    ADAMW_SETTINGS,
    LEVEL_SETTINGS,
    SGD_SETTINGS,
    SIGN_SETTINGS,
    VoteSettings,
    takes_settings,
)


@takes_settings(*SGD_SETTINGS, arguments=ARGUMENTS)
class SGD(RoundOptimizer):
    """SGD on the mean of all workers' gradients: the float32 baseline.

    Alone it is torch.optim.SGD, bit for bit, with momentum or without. Summed in worker order, so
    that the weights are bit-identical for any number of processes; the bytes are those of a ring
    all-reduce.

    Source:
        design, section 2, table of optimizers.

    Args:
        {arguments}
        {settings}

    Raises:
        SettingError: an argument out of bounds.

    Examples:
        >>> import compsgd, torch
        >>> weights = torch.zeros(2)
        >>> optimizer = compsgd.SGD([weights], lr=0.5, num_workers=2)
        >>> for worker, gradient in enumerate(([1.0, 0.0], [3.0, 2.0])):
        ...     weights.grad = torch.tensor(gradient)
        ...     optimizer.compress(worker)
        >>> optimizer.step()
        >>> weights.tolist()
        [-1.0, -0.5]
    """

    known_settings = SGD_SETTINGS

    def _rule_of_means(self) -> UpdateRule:
        momentum = self.settings.momentum
        return HeavyBall(momentum) if momentum else Descent()


@takes_settings(*ADAMW_SETTINGS, arguments=ARGUMENTS)
class AdamW(RoundOptimizer):
    """AdamW on the mean of all workers' gradients: a float32 baseline.

    Alone it is torch.optim.AdamW, bit for bit. The mean is summed in worker order, so that the
    weights are bit-identical for any number of processes; the bytes are those of a ring all-reduce.

    Source:
        Loshchilov and Hutter 2019, "Decoupled weight decay regularization"; design, section 2b.

    Args:
        {arguments}
        {settings}

    Raises:
        SettingError: an argument out of bounds.

    Examples:
        >>> import compsgd, torch
        >>> weights = torch.zeros(2)
        >>> optimizer = compsgd.AdamW([weights], lr=0.5, num_workers=2)
        >>> for worker, gradient in enumerate(([1.0, -1.0], [3.0, -2.0])):
        ...     weights.grad = torch.tensor(gradient)
        ...     optimizer.compress(worker)
        >>> optimizer.step()
        >>> [round(weight, 6) for weight in weights.tolist()]
        [-0.5, 0.5]
    """

    known_settings = ADAMW_SETTINGS
    own_defaults: ClassVar[Mapping[str, Any]] = {"l2": 0.01}

    def _rule_of_means(self) -> UpdateRule:
        return Adam(self.settings.beta1, self.settings.beta2)


@takes_settings(*SIGN_SETTINGS, arguments=ARGUMENTS)
class SignSGD(RoundOptimizer):
    """signSGD with majority vote: one bit an element. A step moves every parameter by lr.

    Source:
        Bernstein et al. 2018, "signSGD with majority vote"; design, section 2.

    Args:
        {arguments}
        {settings}

    Raises:
        SettingError: an argument out of bounds.

    Examples:
        >>> import compsgd, torch
        >>> weights = torch.zeros(2)
        >>> optimizer = compsgd.SignSGD([weights], lr=0.5, num_workers=3)
        >>> for worker, gradient in enumerate(([1.0, -2.0], [3.0, 1.0], [-0.1, -7.0])):
        ...     weights.grad = torch.tensor(gradient)
        ...     optimizer.compress(worker)
        >>> optimizer.step()
        >>> weights.tolist()
        [-0.5, 0.5]
    """

    known_settings = SIGN_SETTINGS

    def _adapted(self, settings: VoteSettings) -> VoteSettings:
        return replace(settings, num_bits=1)


@takes_settings(*LEVEL_SETTINGS, arguments=ARGUMENTS)
class CompressedSGD(RoundOptimizer):
    """Gradients discretised to num_bits against each worker's decaying running range; the update
    is lr times the exact mean of the levels.

    Source:
        design, section 2.

    Args:
        {arguments}
        {settings}

    Raises:
        SettingError: an argument out of bounds.

    Examples:
        >>> import compsgd, torch
        >>> weights = torch.zeros(3)
        >>> optimizer = compsgd.CompressedSGD([weights], lr=1.0, num_bits=3, num_workers=2)
        >>> first_round = [0.4, -0.4, 0.2], [0.4, -0.4, 0.2]
        >>> second_round = [0.4, -0.1, 0.1], [0.4, -0.2, 0.1]
        >>> for gradients in first_round, second_round:
        ...     for worker, gradient in enumerate(gradients):
        ...         weights.grad = torch.tensor(gradient)
        ...         optimizer.compress(worker)
        ...     optimizer.step()
        >>> weights.tolist()  # a gradient is its own range at first: level 4 or -4
        [-8.0, 5.5, -6.0]
    """

    known_settings = LEVEL_SETTINGS
    combine = "mean"


@takes_settings(*LEVEL_SETTINGS, arguments=ARGUMENTS)
class CompressedSGDVote(RoundOptimizer):
    """Gradients discretised to num_bits against each worker's decaying running range; the workers
    vote: the update is lr times the mean level rounded away from zero, which travels in as few
    bits as a ballot.

    Source:
        design, section 2, step 4.

    Args:
        {arguments}
        {settings}

    Raises:
        SettingError: an argument out of bounds.

    Examples:
        >>> import compsgd, torch
        >>> weights = torch.zeros(3)
        >>> optimizer = compsgd.CompressedSGDVote([weights], lr=1.0, num_bits=3, num_workers=2)
        >>> first_round = [0.4, -0.4, 0.2], [0.4, -0.4, 0.2]
        >>> second_round = [0.4, -0.1, 0.1], [0.4, -0.2, 0.1]
        >>> for gradients in first_round, second_round:
        ...     for worker, gradient in enumerate(gradients):
        ...         weights.grad = torch.tensor(gradient)
        ...         optimizer.compress(worker)
        ...     optimizer.step()
        >>> weights.tolist()  # a gradient is its own range at first: level 4 or -4
        [-8.0, 6.0, -6.0]
    """

    known_settings = LEVEL_SETTINGS
    combine = "vote"


OPTIMIZERS: dict[str, type[RoundOptimizer]] = {
    "sgd": SGD,
    "adamw": AdamW,
    "sign_sgd": SignSGD,
    "compressed_sgd": CompressedSGD,
    "compressed_sgd_vote": CompressedSGDVote,
}

"""What the optimizer that gets voted gradients must not do as well."""

import warnings
from typing import Any

import torch

from compsgd.errors import SettingError
from compsgd.settings import VoteSettings


def first_moment(optimizer: torch.optim.Optimizer) -> str | None:
    """The setting by which an optimizer keeps a running mean of its gradients, as "betas[0]=0.9";
    None if it keeps none."""
    for group in optimizer.param_groups:
        betas = group.get("betas")
        if betas is not None and _as_float(betas[0]):
            return f"betas[0]={_as_float(betas[0]):g}"
        if _as_float(group.get("momentum")):
            return f"momentum={_as_float(group['momentum']):g}"
    return None


def check_optimizer(optimizer: object) -> None:
    """
    Raises:
        SettingError: it is no optimizer of torch's kind.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise SettingError(
            f"optimizer is {optimizer!r}; give the torch.optim.Optimizer that moves the parameters"
        )


def warn_of_two_momenta(settings: VoteSettings, optimizer: torch.optim.Optimizer) -> None:
    """Warns if gradients are averaged over time twice: by each process before the vote, and by the
    optimizer after it (design, section 2b). Also if that begins later: schedulers that cycle
    momentum give some to an optimizer that had none."""
    if not settings.momentum:
        return
    if first_moment(optimizer):
        _warn(settings, optimizer)
        return

    def check(stepping: torch.optim.Optimizer, *_: Any) -> None:
        if first_moment(stepping):
            watch.remove()
            _warn(settings, stepping)

    watch = _innermost(optimizer).register_step_pre_hook(check)


def _warn(settings: VoteSettings, optimizer: torch.optim.Optimizer) -> None:
    warnings.warn(
        f"the vote has momentum={settings.momentum:g}, and {type(optimizer).__name__} has "
        f"{first_moment(optimizer)}: gradients are averaged over time twice, which costs accuracy; "
        "give the optimizer none (SGD with momentum=0, or Adam with betas=(0.0, 0.99)), and a "
        "scheduler that cycles it cycle_momentum=False",
        stacklevel=4,
    )


def _innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The one that moves the parameters: Accelerate's, say, wraps it."""
    inner = getattr(optimizer, "optimizer", None)
    return _innermost(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


def _as_float(value: Any) -> float:
    return 0.0 if value is None else float(value)

"""What the optimizer that gets voted gradients must not do as well."""

import warnings
from typing import Any

import torch

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


def warn_of_two_momenta(settings: VoteSettings, optimizer: torch.optim.Optimizer) -> None:
    """Warns if gradients would be averaged over time twice: by each process before the vote, and
    by the optimizer after it (design, section 2b)."""
    found = first_moment(optimizer)
    if settings.momentum and found:
        warnings.warn(
            f"the vote has momentum={settings.momentum:g}, and {type(optimizer).__name__} has "
            f"{found}: gradients are averaged over time twice, which costs accuracy; give the "
            "optimizer none (SGD with momentum=0, or Adam with betas=(0.0, 0.99))",
            stacklevel=3,
        )


def _as_float(value: Any) -> float:
    return 0.0 if value is None else float(value)

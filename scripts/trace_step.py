"""What runs in one step: how many functions of compsgd's own, in how many files, how deep.

python scripts/trace_step.py [--show]

A toy model of four tensors in one process, after a first step has made what is kept. Counted is
every function whose code lies in this repository's packages; comprehensions, lambdas and generator
expressions belong to the function that they stand in, and what Numba has compiled is one call.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import click
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import compsgd
from compsgd.comm import register_vote_hook
from compsgd.workers.report.tables import format_table

_ROOT = Path(__file__).resolve().parents[1]
_ROOMS = ("compsgd", "comm", "workers", "plots")


@dataclass
class Trace:
    """What was called.

    Attributes:
        functions: (file, qualified name), in the order of their first call.
        depth: the most of them that were on one stack.
    """

    functions: dict[tuple[str, str], None] = field(default_factory=dict)
    depth: int = 0

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(file for file, _ in self.functions))

    def note(self, frame: FrameType, event: str, arg: Any) -> None:
        """For sys.setprofile."""
        if event != "call" or _file_of(frame.f_code) is None:
            return
        depth, caller = 0, frame
        while caller is not None:
            if _is_counted(caller.f_code):
                depth += 1
            caller = caller.f_back  # type: ignore[assignment]
        self.depth = max(self.depth, depth)
        if _is_counted(frame.f_code):
            file = _file_of(frame.f_code)
            assert file is not None
            self.functions[file, getattr(frame.f_code, "co_qualname", frame.f_code.co_name)] = None


def _file_of(code: CodeType) -> str | None:
    """The file in this repository's packages; None for any other."""
    path = Path(code.co_filename).resolve()
    if not path.is_relative_to(_ROOT):
        return None
    name = path.relative_to(_ROOT)
    return str(name) if name.parts[0] in _ROOMS else None


def _is_counted(code: CodeType) -> bool:
    return not code.co_name.startswith("<") and _file_of(code) is not None


def trace(action: Callable[[], Any]) -> Trace:
    """Runs an action; whatever it does in threads that start within counts, too."""
    found = Trace()
    threading.setprofile(found.note)
    sys.setprofile(found.note)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return found


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))


def trace_optimizer() -> Trace:
    """A step of CompressedSGDVote, one worker, with Numba."""
    model = _model()
    optimizer = compsgd.CompressedSGDVote(model.parameters(), lr=1e-3, compile="native")

    def backward() -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 20)).sum().backward()

    backward()
    optimizer.step()
    backward()
    return trace(optimizer.step)


def trace_hook() -> Trace:
    """A backward pass through the hook, "mean_abs", of a process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    ddp = DistributedDataParallel(_model())
    # The thread of the hook is to start within the trace: each task notes what it calls itself.
    found = Trace()
    threading.setprofile(found.note)
    register_vote_hook(ddp, scale="mean_abs", compile="native")
    for _ in range(2):
        ddp(torch.ones(2, 20)).sum().backward()
        ddp.zero_grad()
    found.functions.clear()
    found.depth = 0
    output = ddp(torch.ones(2, 20)).sum()
    sys.setprofile(found.note)
    try:
        output.backward()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        dist.destroy_process_group()
    return found


@click.command()
@click.option("--show", is_flag=True, help="List the functions, file by file.")
def main(show: bool) -> None:
    """Count what runs in a step of the optimizer and of the hook."""
    traces = {"optimizer step": trace_optimizer(), "hook, one backward": trace_hook()}
    rows = [
        [name, str(len(one.functions)), str(len(one.files)), str(one.depth)]
        for name, one in traces.items()
    ]
    click.echo(
        format_table(["compiled by Numba, one process", "functions", "files", "depth"], rows)
    )
    if show:
        for name, one in traces.items():
            click.echo(f"\n{name}")
            for file in one.files:
                click.echo(f"  {file}")
                for its_file, function in one.functions:
                    if its_file == file:
                        click.echo(f"    {function}")


if __name__ == "__main__":
    main()

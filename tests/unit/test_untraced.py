"""Optimizers within torch.compile: the same bits, and nothing is traced."""

import subprocess
import sys

import pytest
import torch
from processes import ROOT

import compsgd
from compsgd.untraced import untraced


class Counter:
    def __init__(self):
        self.seen = []

    @untraced
    def note(self, value):
        self.seen.append(torch.compiler.is_compiling())
        return value + 1


def test_a_method_is_not_traced():
    counter = Counter()
    compiled = torch.compile(lambda value: counter.note(value) * 2)
    assert [compiled(torch.tensor(one)).item() for one in (1, 2)] == [4, 6]
    assert counter.seen == [False, False]


VOTE = {"momentum": 0.9, "error_feedback": True, "exempt_1d": True, "l2": 0.1, "decay_max": 0.9}
OPTIMIZERS = {
    "SGD": (compsgd.SGD, {"momentum": 0.9}),
    "AdamW": (compsgd.AdamW, {}),
    "SignSGD": (compsgd.SignSGD, {}),
    "CompressedSGD": (compsgd.CompressedSGD, {}),
    "CompressedSGDVote": (compsgd.CompressedSGDVote, VOTE),
}


@pytest.mark.parametrize(("make", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compiled_step_equals_an_eager_one(make, settings):
    def trained(compiles):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
        optimizer = make(net.parameters(), 0.01, num_workers=2, **settings)

        def round_():
            for worker in range(2):
                optimizer.compress(worker)
            optimizer.step()
            optimizer.zero_grad()

        take = torch.compile(round_) if compiles else round_
        for step in range(3):
            inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(step))
            net(inputs).square().mean().backward()
            take()
        return [one.detach() for one in net.parameters()]

    assert all(map(torch.equal, trained(True), trained(False)))


TRAINS = """
import sys, torch, compsgd
net = torch.nn.Linear(4, 2)
optimizer = compsgd.CompressedSGDVote(net.parameters(), 0.01, num_bits=3)
for step in range(2):
    optimizer.zero_grad()
    net(torch.ones(3, 4)).sum().backward()
    optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
# What traces later finds the optimizer that was made before.
torch.compile(optimizer.step, backend="eager", fullgraph=False)()
assert "torch._dynamo" in sys.modules and optimizer.round == 3
"""


def test_training_imports_no_compiler_before_there_is_anything_to_trace():
    done = subprocess.run(
        [sys.executable, "-c", TRAINS], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr

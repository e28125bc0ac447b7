"""What is imported when: the mathematics does without what stands above it until asked."""

import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

import compsgd

HEAVY = ("numba", "matplotlib", "torchvision", "click", "tensorboard")
ABOVE = ("compsgd.comm", "compsgd.workers", "compsgd.plots")

LOADED = f"""
import sys
before = set(sys.modules)
import compsgd
assert compsgd.SignSGD is not None
found = [name for name in {HEAVY + ABOVE} if name in sys.modules and name not in before]
assert not found, found
assert "comm" in dir(compsgd) and "VoteAggregator" in dir(compsgd)
assert not [name for name in {ABOVE} if name in sys.modules], "dir() has imported"
assert compsgd.comm is sys.modules["compsgd.comm"]
assert compsgd.VoteAggregator is compsgd.comm.VoteAggregator
found = [name for name in {HEAVY + ABOVE[1:]} if name in sys.modules and name not in before]
assert not found, found
print("as it should be")
"""


def python(*args, cwd):
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_a_fresh_interpreter_imports_only_what_it_is_asked_for(tmp_path):
    """`torch` itself imports torch.distributed; what is meant is who uses it."""
    done = python("-c", LOADED, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("as it should be\n", 0), done.stderr


def test_the_package_is_the_command(tmp_path):
    done = python("-m", "compsgd", "--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert compsgd.__version__ in done.stdout


def test_the_version_is_that_of_the_distribution():
    assert compsgd.__version__ == version("compsgd")


@pytest.mark.parametrize("name", ["workers_", "aggregator", "Comm"])
def test_unknown_attributes(name):
    with pytest.raises(AttributeError, match=f"module 'compsgd' has no attribute '{name}'"):
        getattr(compsgd, name)


def test_all_public_names_are_there():
    for name in compsgd.__all__:
        assert getattr(compsgd, name) is not None
    assert {*compsgd.__all__, "comm", "__version__"} <= set(dir(compsgd))


def test_an_exchange_by_name_needs_torch_distributed():
    with pytest.raises(compsgd.SettingError, match=r"torch\.distributed is not initialised"):
        compsgd.SignSGD([torch.zeros(1)], 0.1, exchange="auto")

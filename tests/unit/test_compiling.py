"""What torch.compile makes of the kernels sends the same bytes as what runs eagerly.

Without Numba's loops, which otherwise do much of the work on a CPU (test_numba_codec.py).
"""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rounds import assert_same_rounds, numel_for

import compsgd
from compsgd.codec import registry
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.bit_packing import group_for
from compsgd.codec.blocks import BLOCK_COLUMNS
from compsgd.codec.combine import MEAN, VOTE
from compsgd.codec.compiling import Eager, Inductor, Work, choose, compiler_named
from compsgd.codec.registry import codec_for
from compsgd.codec.torch_codec import torch_codec
from compsgd.codec.torch_kernels import encode

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler for torch.compile"
)


@pytest.fixture(autouse=True, scope="module")
def without_loops():
    """For all tests together: what is compiled once serves every shape that asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "CODECS", [torch_codec])
        # Small pieces, so that there are several.
        patch.setattr(Inductor, "chunk_numel", 1 << 14)
        codec_for.cache_clear()
        yield
    codec_for.cache_clear()


ALPHABETS = [(num_bits, rand_zero) for num_bits in range(1, 9) for rand_zero in (True, False)]


@pytest.mark.parametrize(("num_bits", "rand_zero"), ALPHABETS)
def test_same_bytes_for_every_alphabet(num_bits, rand_zero):
    numel = numel_for(num_bits, rand_zero, 1)
    settings = {"num_bits": num_bits, "rand_zero": rand_zero, "decay_max": 0.9, "decay_min": 0.7}
    assert_same_rounds("on", compsgd.CompressedSGDVote, 1, numel, **settings)


@pytest.mark.parametrize("rand_zero", [True, False])
def test_same_with_all_that_a_worker_may_remember(rand_zero):
    numel = numel_for(3, rand_zero, 1)
    more = {"decay_max": 0.9, "decay_min": 0.7, "rand_zero": rand_zero}
    more |= {"momentum": 0.9, "error_feedback": True}
    assert_same_rounds("on", compsgd.CompressedSGDVote, 1, numel, **more)


@pytest.mark.parametrize("rand_zero", [True, False])
@pytest.mark.parametrize("optimizer", [compsgd.CompressedSGD, compsgd.CompressedSGDVote])
def test_same_bytes_in_shards(optimizer, rand_zero):
    numel = numel_for(3, rand_zero, 3)
    assert_same_rounds("on", optimizer, 3, numel, rand_zero=rand_zero)


def test_same_bytes_of_signs():
    assert_same_rounds("on", compsgd.SignSGD, 1, 20_000)


@pytest.mark.parametrize("rand_zero", [True, False])
def test_more_workers_than_one_call_takes(rand_zero, monkeypatch):
    # Loops over ballots are unrolled, so that 16 at once take a minute to compile.
    monkeypatch.setattr("compsgd.codec.torch_codec.BALLOTS_AT_ONCE", 3)
    results = []
    for compile in ("off", "on"):
        generator = torch.Generator().manual_seed(0)
        parameter = torch.zeros(50_000)
        optimizer = compsgd.CompressedSGDVote(
            [parameter], 0.1, num_bits=4, num_workers=5, rand_zero=rand_zero, compile=compile
        )
        for worker in range(5):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.compress(worker)
        optimizer.step()
        results.append(parameter)
    assert torch.equal(*results)


@pytest.mark.parametrize("rand_zero", [True, False])
def test_exp_moves_only_values_on_an_edge(rand_zero):
    num_bits = 4
    alphabet = ballot_alphabet(num_bits, not rand_zero)
    rows = group_for(alphabet).num_elements
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(2, rows, BLOCK_COLUMNS, generator=generator) * 1e-2
    bits = torch.zeros(2, BLOCK_COLUMNS, dtype=torch.uint8) if rand_zero else None
    codes, bounds = [], []
    for compile in ("off", "on"):
        maximum = torch.full_like(gradient, 2e-2)
        bounds.append((maximum, -maximum))
        out = torch.empty_like(gradient, dtype=alphabet.code_dtype)
        rates = torch.tensor([0.99, 0.99, 0.0, 1.0])
        args = out, gradient, bounds[-1], None, None, rates, bits
        kernel = compiler_named(compile, False).compiled(encode(alphabet, "exp"))
        codes.append(kernel(*args).to(torch.int32))
    for ours, theirs in zip(*bounds, strict=True):
        assert torch.equal(ours, theirs)
    bound = torch.where(gradient > 0, *bounds[0]).abs()
    share = (gradient.abs() + 1.0001).double().log() / (bound + 1.0001).double().log()
    position = share * 2 ** (num_bits - 1)
    inside = (position - position.round()).abs() > 1e-6 * position.clamp(min=1)
    assert inside.double().mean() > 0.9
    assert torch.equal(codes[0][inside], codes[1][inside])
    assert (codes[0] - codes[1]).abs().max() <= 1


def work(num_bits=3, zeros=False, binning="lin", combine=VOTE, device_type="cpu"):
    return Work(ballot_alphabet(num_bits, zeros), binning, combine, device_type)


def test_the_rule_of_auto():
    """Numba wherever it can do something; a small model never waits for torch.compile."""
    everything = [work(), work(binning=None), work(1)]
    something = [work(binning="exp"), work(combine=MEAN)]
    nothing = [work(zeros=True), work(device_type="cuda")]
    for numel, num_rounds in ((10, 1), (4810, 10_000_000), (10_000_000, 1)):
        for one in everything:
            assert choose("auto", one, numel, 4, num_rounds) == "native"
    for numel, num_rounds in ((10, 10_000_000), (4810, 10_000_000), (10_000_000, 10)):
        for one in something:
            assert choose("auto", one, numel, 4, num_rounds) == "native"
        for one in nothing:
            assert choose("auto", one, numel, 4, num_rounds) == "off"
    for one in something + nothing:
        assert choose("auto", one, 10_000_000, 4, 1000) == "on"
    for choice in ("on", "native", "off"):
        assert choose(choice, work(), 1, 1) == choice


NO_COMPILER = """
import logging, sys, torch, compsgd
logging.basicConfig(format="%(message)s")
parameter = torch.zeros(50_000)
parameter.grad = torch.ones(50_000)
try:
    optimizer = compsgd.SignSGD(
        [parameter], 0.1, rand_zero=False, compile=sys.argv[1], num_workers=40
    )
    for _ in range(3):
        optimizer.compress(0)
        optimizer.step()
except compsgd.CompsgdError as error:
    print("error:", error)
print(parameter.sum().item())
"""


@pytest.mark.parametrize(("compile", "moved"), [("auto", -15_000.0), ("on", 0.0)])
def test_without_a_compiler(compile, moved, tmp_path: Path):
    environment = os.environ | {
        "CXX": "/does/not/exist",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", NO_COMPILER, compile],
        env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(moved, rel=1e-4)
    if compile == "auto":
        assert done.stderr.count("going on without it") == 1
    else:
        assert "error: torch.compile fails here" in done.stdout
        assert 'compile="off"' in done.stdout


@pytest.mark.parametrize("compiler", [Eager(), Inductor(may_fall_back=True)])
def test_a_mistake_in_a_kernel_is_not_taken_for_a_missing_compiler(compiler, caplog):
    def broken(tensor: torch.Tensor) -> torch.Tensor:
        raise ValueError("a mistake")

    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="a mistake"):
        compiler.compiled(broken)(torch.zeros(1, 2))
    assert not caplog.records

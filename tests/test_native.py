"""Numba's loops send the same bytes and make the same update as eager torch."""

import logging
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import assert_same_rounds, numel_for

import compsgd
from compsgd.alphabet import ballot_alphabet, codes_to_levels
from compsgd.compiling import Kernels
from compsgd.flat import Run
from compsgd.native import NativeCodec, codec_for
from compsgd.randomness import derive_key, random_bits

CPU = torch.device("cpu")
BITS = range(1, 9)


@pytest.mark.parametrize("num_bits", BITS)
@pytest.mark.parametrize("num_shards", [1, 3])
def test_same_bytes_and_update_of_a_vote(num_bits, num_shards):
    numel = numel_for(num_bits, True, num_shards)
    options = {"num_bits": num_bits, "decay_max": 0.9, "decay_min": 0.7}
    assert_same_rounds("native", compsgd.CompressedSGDVote, num_shards, numel, **options)


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (compsgd.SignSGD, {}),
        (compsgd.SignSGD, {"rand_zero": False}),
        (compsgd.CompressedSGD, {}),
        (compsgd.CompressedSGDVote, {"rand_zero": False}),
        (compsgd.CompressedSGDVote, {"binning": "exp"}),
    ],
)
def test_same_where_loops_do_some_of_the_work_or_none(optimizer, options, num_shards):
    assert_same_rounds("native", optimizer, num_shards, numel_for(3, True, num_shards), **options)


def test_more_workers_than_sums_of_levels_have_room_for():
    codec = NativeCodec(8)
    assert codec.may_count(255)
    assert not codec.may_count(256)
    results = []
    for compile in ("off", "native"):
        generator = torch.Generator().manual_seed(0)
        parameter = torch.zeros(4999)
        optimizer = compsgd.CompressedSGDVote(
            [parameter], 0.1, num_bits=8, num_workers=256, compile=compile
        )
        for worker in range(256):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.compress(worker)
        optimizer.step()
        results.append(parameter)
    assert torch.equal(*results)


def random_codes(num_bits, numel, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**num_bits, (numel,), generator=generator, dtype=torch.uint8)


def levels_of(codes, num_bits):
    return codes_to_levels(codes, ballot_alphabet(num_bits, False))


NUMEL = st.integers(0, 40) | st.integers(4000, 4200) | st.integers(8000, 13000)


@settings(deadline=None)
@given(st.sampled_from(BITS), NUMEL)
def test_packs_as_pack_does(num_bits, numel):
    codec = NativeCodec(num_bits)
    codes = random_codes(num_bits, numel)
    size = compsgd.packed_num_bytes(numel, num_bits)
    packed = torch.full((size + 5,), 255, dtype=torch.uint8)
    codec.pack(packed, codes)
    assert torch.equal(packed[:size], compsgd.pack(levels_of(codes, num_bits), num_bits))
    assert not packed[size:].any()
    unpacked = torch.full_like(codes, 77)
    codec.unpack(unpacked, packed)
    assert torch.equal(unpacked, codes)


@settings(deadline=None)
@given(NUMEL, st.integers(0, 20_000))
def test_coins_are_the_random_bits(numel, start):
    key = derive_key(3, "a test", 1)
    coins, offset = NativeCodec(1).coins(key, start, numel)
    position = offset + torch.arange(numel)
    byte = position // 4096 * 512 + position % 512
    bits = (coins[byte].to(torch.int64) >> position % 4096 // 512) & 1
    assert torch.equal(bits.to(torch.uint8), random_bits(key, start, numel))


@settings(deadline=None)
@given(st.sampled_from(BITS), NUMEL, st.integers(0, 5000), st.data())
def test_runs_may_be_cut_anywhere(num_bits, numel, start, data):
    codec = NativeCodec(num_bits)
    cut = data.draw(st.integers(0, numel))
    coins = codec.coins(derive_key(3, "a test", 2), start, numel)
    generator = torch.Generator().manual_seed(4)
    gradient = torch.randn(numel, generator=generator)
    results = []
    for runs in ([Run(0, numel)], [Run(cut, numel), Run(0, cut)]):
        codes = torch.empty(numel, dtype=torch.uint8)
        bounds = torch.full((numel,), 0.5), torch.full((numel,), -0.5)
        for run in runs:
            own = [bound[run.slice] for bound in bounds]
            args = codes[run.slice], gradient[run.slice], own, (0.9, 0.8), coins, run.start
            codec.code_levels(*args)
        size = compsgd.packed_num_bytes(numel, num_bits)
        ballots = torch.zeros(3, size + 3, dtype=torch.uint8)
        for seed, row in enumerate(ballots[:2]):
            codec.pack(row, random_codes(num_bits, numel, seed))
        codec.pack(ballots[2], codes)
        voted = torch.full_like(codes, 255)
        for run in runs:
            codec.vote(voted, ballots, (2, 0), coins, run)
        results.append([codes, *bounds, voted])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_vote_on_a_run_leaves_the_rest_alone():
    codec = NativeCodec(3)
    coins = codec.coins(1, 0, 10_000)
    ballots = torch.zeros(1, 3750, dtype=torch.uint8)
    voted = torch.full((10_000,), 99, dtype=torch.uint8)
    codec.vote(voted, ballots, (0,), coins, Run(4000, 9000))
    assert (voted[:4000] == 99).all()
    assert (voted[4000:9000] == 0).all()
    assert (voted[9000:] == 99).all()


@pytest.mark.parametrize("num_bits", BITS)
def test_levels_and_their_magnitudes(num_bits):
    codec = NativeCodec(num_bits)
    codes = random_codes(num_bits, 5001)
    levels = levels_of(codes, num_bits)
    assert codec.sum_levels(codes) == int(levels.abs().sum())
    out = torch.empty(5001)
    codec.write_levels(out, codes, 0.37)
    assert torch.equal(out, levels.float() * 0.37)


def test_sums_of_magnitudes_show_what_is_not_finite():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    expected = float(values.double().abs().sum())
    assert NativeCodec.sum_magnitudes(values) == pytest.approx(expected, rel=1e-6)
    for place in (0, 4095, 9999):
        for bad in (np.inf, -np.inf, np.nan):
            damaged = values.clone()
            damaged[place] = bad
            assert not np.isfinite(NativeCodec.sum_magnitudes(damaged))


def test_which_alphabets_have_loops():
    kernels = Kernels("native")
    for num_bits in BITS:
        assert codec_for(ballot_alphabet(num_bits, False)).num_bits == num_bits
        assert kernels.codec(ballot_alphabet(num_bits, True), CPU) is None
    alphabet = ballot_alphabet(3, False)
    assert kernels.codec(alphabet, CPU) is not None
    assert kernels.codec(alphabet, torch.device("cuda")) is None
    assert Kernels("off").codec(alphabet, CPU) is None


@pytest.mark.parametrize("compile", ["auto", "native"])
def test_without_numba(compile, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "compsgd.native", None)
    parameter = torch.zeros(150_000)
    optimizer = compsgd.CompressedSGDVote([parameter], 0.1, compile=compile)
    parameter.grad = torch.ones(150_000)
    with caplog.at_level(logging.WARNING):
        if compile == "native":
            with pytest.raises(compsgd.CompsgdError, match=r"Numba fails here .*compile=\"off\""):
                optimizer.step()
            return
        for _ in range(2):
            optimizer.step()
    assert [record.message.count("going on without it") for record in caplog.records] == [1]
    assert (parameter == -0.8).all()

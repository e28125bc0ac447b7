"""Numba's loops send the same bytes and make the same update as eager torch."""

import itertools
import logging
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import assert_same_rounds, numel_for

import compsgd
from compsgd.codec.alphabet import ballot_alphabet, codes_to_levels
from compsgd.codec.base import CodecSpec, Memory, Rates
from compsgd.codec.combine import VOTE
from compsgd.codec.numba_codec import NumbaCodec, _random_bits
from compsgd.codec.registry import codec_for
from compsgd.codec.torch_codec import TorchCodec
from compsgd.gradient import Gradient, GradientPart
from compsgd.layout import FlatLayout, Span, Voters
from compsgd.rng import BitStream, derive_key, random_bits

CPU = torch.device("cpu")
BITS = range(1, 9)


@pytest.mark.parametrize("num_bits", BITS)
@pytest.mark.parametrize("num_shards", [1, 3])
def test_same_bytes_and_update_of_a_vote(num_bits, num_shards):
    numel = numel_for(num_bits, True, num_shards)
    options = {"num_bits": num_bits, "decay_max": 0.9, "decay_min": 0.7}
    assert_same_rounds("native", compsgd.CompressedSGDVote, num_shards, numel, **options)


@pytest.mark.parametrize("num_bits", [1, 3, 8])
@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"error_feedback": True},
                                     {"momentum": 0.95, "error_feedback": True}])  # fmt: skip
def test_same_with_all_that_a_worker_may_remember(num_bits, options):
    numel = numel_for(num_bits, True, 1)
    more = {"num_bits": num_bits, "decay_max": 0.9, "decay_min": 0.7, **options}
    assert_same_rounds("native", compsgd.CompressedSGDVote, 1, numel, **more)


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (compsgd.SignSGD, {}),
        (compsgd.SignSGD, {"momentum": 0.9}),
        (compsgd.SignSGD, {"rand_zero": False}),
        (compsgd.CompressedSGD, {}),
        (compsgd.CompressedSGDVote, {"rand_zero": False}),
        (compsgd.CompressedSGDVote, {"binning": "exp"}),
    ],
)
def test_same_where_loops_do_some_of_the_work_or_none(optimizer, options, num_shards):
    assert_same_rounds("native", optimizer, num_shards, numel_for(3, True, num_shards), **options)


def test_more_workers_than_sums_of_levels_have_room_for():
    codec = numba_codec(8)
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


def numba_codec(num_bits, binning="lin"):
    spec = CodecSpec(ballot_alphabet(num_bits, False), binning, "cpu", "native", False)
    codec = codec_for(spec)
    assert isinstance(codec, NumbaCodec)
    return codec


def random_codes(num_bits, numel, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**num_bits, (numel,), generator=generator, dtype=torch.uint8)


def levels_of(codes, num_bits):
    return codes_to_levels(codes, ballot_alphabet(num_bits, False))


NUMEL = st.integers(0, 40) | st.integers(4000, 4200) | st.integers(8000, 13000)


@settings(deadline=None)
@given(st.sampled_from(BITS), NUMEL)
def test_packs_as_pack_does(num_bits, numel):
    codec = numba_codec(num_bits)
    codes = random_codes(num_bits, numel)
    size = compsgd.packed_num_bytes(numel, num_bits)
    packed = torch.full((size + 5,), 255, dtype=torch.uint8)
    codec.pack(packed, codes)
    assert torch.equal(packed[:size], compsgd.pack(levels_of(codes, num_bits), num_bits))
    assert not packed[size:].any()
    codec.check(packed[None], numel)
    unpacked = torch.full_like(codes, 77)
    codec.unpack(unpacked, packed)
    assert torch.equal(unpacked, codes)


@settings(deadline=None)
@given(st.sampled_from(BITS), st.integers(1, 40), st.data())
def test_dirty_padding_is_refused_as_torch_does(num_bits, numel, data):
    codec = numba_codec(num_bits)
    packed = torch.zeros(1, compsgd.packed_num_bytes(numel, num_bits) + 3, dtype=torch.uint8)
    codec.pack(packed[0], random_codes(num_bits, numel))
    bit = data.draw(st.integers(0, 8 * packed.numel() - 1))
    packed[0, bit // 8] ^= 1 << bit % 8
    spec = CodecSpec(codec.alphabet, None, "cpu", "off", False)
    for one in (codec, codec_for(spec)):
        if bit < numel * num_bits:
            one.check(packed, numel)
        else:
            with pytest.raises(compsgd.DamagedDataError, match="padding"):
                one.check(packed, numel)


@settings(deadline=None)
@given(NUMEL, st.integers(0, 20_000))
def test_random_bits_are_those_of_the_design(numel, start):
    key = derive_key(3, "a test", 1)
    found, offset = _random_bits(BitStream(key, start), numel)
    position = offset + torch.arange(numel)
    byte = position // 4096 * 512 + position % 512
    bits = (torch.from_numpy(found)[byte].to(torch.int64) >> position % 4096 // 512) & 1
    assert torch.equal(bits.to(torch.uint8), random_bits(key, start, numel))


def gradient_in_parts(values, cuts):
    """A gradient of one parameter a part."""
    layout = FlatLayout([end - start for start, end in itertools.pairwise(cuts)])
    parts = [GradientPart(span, values[span.slice]) for span in layout.spans]
    return Gradient(parts, [True] * len(parts), layout, CPU)


@settings(deadline=None)
@given(st.sampled_from(BITS), NUMEL, st.integers(0, 5000), st.data())
def test_spans_may_be_cut_anywhere(num_bits, numel, start, data):
    codec = numba_codec(num_bits)
    cut = data.draw(st.integers(0, numel))
    bits = BitStream(derive_key(3, "a test", 2), start)
    values = torch.randn(numel, generator=torch.Generator().manual_seed(4))
    results = []
    for cuts in ([0, numel], [0, cut, numel]):
        codes = torch.empty(numel, dtype=torch.uint8)
        bounds = torch.full((numel,), 0.5), torch.full((numel,), -0.5)
        gradient = gradient_in_parts(values, cuts)
        momentum, error = torch.full((numel,), 0.1), torch.full((numel,), -0.2)
        memory = Memory(bounds, momentum, error, Rates(0.9, 0.8, 0.5, 0.5))
        codec.encode(codes, gradient, memory, bits)
        size = compsgd.packed_num_bytes(numel, num_bits)
        ballots = torch.zeros(3, size + 3, dtype=torch.uint8)
        for seed, row in enumerate(ballots[:2]):
            codec.pack(row, random_codes(num_bits, numel, seed))
        codec.pack(ballots[2], codes)
        voted = torch.full_like(codes, 255)
        voters = [Voters(part.span, (2, 0)) for part in reversed(gradient.parts)]
        codec.count(voted, ballots, voters, VOTE, bits)
        results.append([codes, *memory.vectors, voted])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_where_nobody_votes_stands_some_valid_code():
    codec = numba_codec(3)
    ballots = torch.zeros(1, 3750, dtype=torch.uint8)
    voted = torch.full((10_000,), 99, dtype=torch.uint8)
    codec.count(voted, ballots, [Voters(Span(4000, 9000), (0,))], VOTE, BitStream(1, 0))
    assert int(voted.max()) < 8


@pytest.mark.parametrize("num_bits", BITS)
def test_levels_and_their_magnitudes(num_bits):
    codec = numba_codec(num_bits)
    codes = random_codes(num_bits, 5001)
    levels = levels_of(codes, num_bits)
    assert codec.level_magnitudes([codes]) == [int(levels.abs().sum())]
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.empty(5001, dtype=dtype)
        codec.decode(out, codes, 0.37)
        assert torch.equal(out, (levels.float() * 0.37).to(dtype))


def test_sums_of_magnitudes_show_what_is_not_finite():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    expected = float(values.double().abs().sum())
    codec = numba_codec(3)
    assert codec.magnitudes([values]) == [pytest.approx(expected, rel=1e-6)]
    for place in (0, 4095, 9999):
        for bad in (np.inf, -np.inf, np.nan):
            damaged = values.clone()
            damaged[place] = bad
            assert not np.isfinite(codec.magnitudes([damaged]))


def test_which_specs_have_loops():
    for num_bits in BITS:
        alphabet = ballot_alphabet(num_bits, False)
        for compile in ("native", "on"):
            spec = CodecSpec(alphabet, "exp", "cpu", compile, False)
            assert isinstance(codec_for(spec), NumbaCodec)
        for spec in (
            CodecSpec(ballot_alphabet(num_bits, True), "lin", "cpu", "native", False),
            CodecSpec(alphabet, "lin", "cpu", "off", False),
            CodecSpec(alphabet, "lin", "cuda", "native", False),
        ):
            assert isinstance(codec_for(spec), TorchCodec)


@pytest.mark.parametrize("compile", ["auto", "native"])
def test_without_numba(compile, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "compsgd.codec.numba_codec", None)
    codec_for.cache_clear()
    parameter = torch.zeros(150_000)
    parameter.grad = torch.ones(150_000)
    with caplog.at_level(logging.WARNING):
        if compile == "native":
            with pytest.raises(compsgd.SettingError, match=r"Numba fails here .*compile=\"off\""):
                compsgd.CompressedSGDVote([parameter], 0.1, compile=compile)
            return
        optimizer = compsgd.CompressedSGDVote([parameter], 0.1, compile=compile)
        for _ in range(2):
            optimizer.step()
    codec_for.cache_clear()
    assert [record.message.count("going on without it") for record in caplog.records] == [1]
    assert (parameter == -0.8).all()

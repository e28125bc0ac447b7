"""The entropy coder: exact, small, and safe from whatever comes."""

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compsgd.codec.alphabet import ballot_alphabet, sum_alphabet
from compsgd.codec.base import CodecSpec
from compsgd.codec.blocks import packed_size
from compsgd.codec.entropy import EntropyCoder, new_buffer
from compsgd.codec.registry import codec_for
from compsgd.errors import DamagedDataError

BLOCK = 4096


def packed_codes(num_bits, numel, spread, seed=0):
    """Levels like those of gradients, packed: the larger the rarer."""
    alphabet = ballot_alphabet(num_bits, zeros=False)
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(numel, generator=generator).abs() * spread * alphabet.largest
    sizes = sizes.ceil().clamp(1, alphabet.largest).int()
    signs = torch.randint(2, (numel,), generator=generator).bool()
    codes = torch.where(signs, alphabet.largest - 1 + sizes, alphabet.largest - sizes)
    packed = torch.zeros(packed_size(numel, alphabet), dtype=torch.uint8)
    codec = codec_for(CodecSpec(alphabet, None, "cpu", "native", False))
    codec.pack(packed, codes.to(alphabet.code_dtype))
    return alphabet, packed


def coded(alphabet, packed, numel):
    coder = EntropyCoder(alphabet)
    most_bytes = packed.numel() + coder.extra_bytes(packed.numel())
    out = new_buffer(most_bytes)
    size = coder.encode(out, packed, numel)
    assert size <= most_bytes
    return out[:size].clone()


@settings(max_examples=60, deadline=None)
@given(
    num_bits=st.sampled_from([2, 3, 5, 8]),
    numel=st.one_of(st.integers(0, 3 * BLOCK), st.sampled_from([16 * BLOCK, 17 * BLOCK + 5])),
    spread=st.sampled_from([0.0, 0.1, 0.5, 10.0]),
    behind=st.integers(0, 5),
)
def test_what_is_coded_comes_back(num_bits, numel, spread, behind):
    alphabet, packed = packed_codes(num_bits, numel, spread)
    found = coded(alphabet, packed, numel)
    back = torch.full((packed.numel() + behind,), 99, dtype=torch.uint8)
    more = torch.cat([found, torch.ones(behind, dtype=torch.uint8)])
    assert EntropyCoder(alphabet).decode(back, more, numel) == found.numel()
    assert torch.equal(back[: packed.numel()], packed)
    assert not back[packed.numel() :].any()


@pytest.mark.parametrize(("num_bits", "spread"), [(2, 0.3), (3, 0.2), (5, 0.1), (8, 0.1)])
def test_it_comes_close_to_the_entropy(num_bits, spread):
    numel = 64 * BLOCK
    alphabet, packed = packed_codes(num_bits, numel, spread)
    codec = codec_for(CodecSpec(alphabet, None, "cpu", "native", False))
    codes = torch.empty(numel, dtype=alphabet.code_dtype)
    codec.unpack(codes, packed)
    shares = torch.bincount(codes.int()).double() / numel
    entropy = -sum(share * math.log2(share) for share in shares.tolist() if share)
    assert coded(alphabet, packed, numel).numel() * 8 / numel < 1.03 * entropy + 0.02


def test_neighbours_that_are_alike_take_less():
    """Half of a vector is quiet: pairs of its columns know it."""
    alphabet = ballot_alphabet(3, zeros=False)
    loud = torch.tensor([0, 7]).repeat_interleave(8).repeat(16 * BLOCK // 16).to(torch.uint8)
    packed = torch.zeros(packed_size(loud.numel(), alphabet), dtype=torch.uint8)
    codec_for(CodecSpec(alphabet, None, "cpu", "native", False)).pack(packed, loud)
    # A bit by itself; half of one, as neighbours are the same.
    assert coded(alphabet, packed, loud.numel()).numel() * 8 / loud.numel() < 0.51


@pytest.mark.parametrize("num_bits", [2, 3, 8])
def test_noise_costs_a_word_a_piece(num_bits):
    numel = 32 * BLOCK + 100
    alphabet = ballot_alphabet(num_bits, zeros=False)
    packed = torch.randint(256, (packed_size(numel, alphabet),), dtype=torch.uint8)
    assert coded(alphabet, packed, numel).numel() == packed.numel() + 2 * 4


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_found_or_gives_codes(data):
    """No bytes end a process: they are refused, or stand for some codes."""
    numel = 3 * BLOCK + 11
    alphabet, packed = packed_codes(data.draw(st.sampled_from([2, 3, 5, 8])), numel, 0.1)
    found = coded(alphabet, packed, numel)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(
            st.integers(0, min(found.numel() - 1, data.draw(st.sampled_from([50, 10**6]))))
        )
        found[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        found = found[: data.draw(st.integers(0, found.numel()))]
    back = torch.zeros(packed.numel(), dtype=torch.uint8)
    with contextlib.suppress(DamagedDataError):
        assert EntropyCoder(alphabet).decode(back, found, numel) <= found.numel()


def test_which_alphabets_it_suits():
    assert not EntropyCoder.suits(None)
    assert not EntropyCoder.suits(ballot_alphabet(1, zeros=False))
    assert not EntropyCoder.suits(ballot_alphabet(3, zeros=True))
    assert EntropyCoder.suits(ballot_alphabet(3, zeros=False))
    assert EntropyCoder.suits(sum_alphabet(ballot_alphabet(3, zeros=False), 8))
    assert not EntropyCoder.suits(sum_alphabet(ballot_alphabet(8, zeros=False), 8))

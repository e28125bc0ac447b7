"""Random bits are fair, independent, and the same however a vector is cut."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compsgd.rng import (
    block_bits,
    derive_key,
    gather_bits,
    random_bits,
    spread_bits,
)

KEY = derive_key(0, "test")
COUNT = 1 << 18


def centred(key, start=0, count=COUNT):
    return random_bits(key, start, count).double() * 2 - 1


def assert_near_zero_mean(products):
    """Within 5 standard deviations; the inputs are fixed, so this never flickers."""
    assert abs(float(products.mean())) < 5 / products.numel() ** 0.5


def test_bits_never_change():
    digest = hashlib.sha256(random_bits(derive_key(7, "golden", 3, 1), 100, 10_000).numpy())
    assert digest.hexdigest() == "7348134cb5934010e43fecc0aeff12085d65986c21bf4e8f6b954f98ee65e269"


def test_keys_differ_in_every_part():
    keys = {
        derive_key(*parts)
        for parts in [(0, "a", 1, 2), (1, "a", 1, 2), (0, "b", 1, 2), (0, "a", 2, 1), (0, "a", 12)]
    }
    assert len(keys) == 5
    assert all(0 <= key < 1 << 64 for key in keys)


@given(st.integers(0, 20_000), st.integers(0, 9_000), st.integers(0, (1 << 64) - 1))
@settings(max_examples=100, deadline=None)
def test_chunks_equal_the_whole(start, count, key):
    whole = random_bits(key, 0, start + count)
    assert torch.equal(random_bits(key, start, count), whole[start:])


def test_bits_are_fair():
    assert set(random_bits(KEY, 0, 100).tolist()) == {0, 1}
    assert_near_zero_mean(centred(KEY))


@pytest.mark.parametrize("distance", [1, 2, 7, 8, 511, 512, 513, 4096, 65_536])
def test_elements_are_independent(distance):
    bits = centred(KEY)
    assert_near_zero_mean(bits[distance:] * bits[:-distance])


@pytest.mark.parametrize("other", [(1, 0), (0, 1), (1, 1), (2, 0), (1000, 7)])
def test_rounds_and_workers_are_independent(other):
    assert_near_zero_mean(centred(derive_key(0, "t", 0, 0)) * centred(derive_key(0, "t", *other)))


def test_streams_are_no_permutation_of_each_other():
    counts = [random_bits(derive_key(0, "t", r), 0, 1 << 12).sum().item() for r in range(200)]
    assert len(set(counts)) > 50
    spread = torch.tensor(counts, dtype=torch.float64).std().item()
    assert 0.8 * 32 < spread < 1.2 * 32


@given(st.integers(0, 20_000), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_packed_hold_the_bits_of_rows(start, num_blocks):
    found = block_bits(KEY, start, num_blocks)
    bits = random_bits(KEY, start, num_blocks * 4096).view(num_blocks, 8, 512)
    assert found.shape == (num_blocks, 512)
    assert torch.equal(spread_bits(found), bits)
    assert torch.equal(gather_bits(bits), found)

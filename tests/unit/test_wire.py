"""How many bytes a vector takes on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import compsgd
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.wire import RoundFormat, WireFormat

numels = st.integers(0, 20_000)
shards = st.integers(1, 64)


@given(numels, shards, st.integers(1, 8), st.booleans())
def test_a_shard_is_its_packed_size_in_whole_words(numel, num_shards, num_bits, zeros):
    format = WireFormat(numel, ballot_alphabet(num_bits, zeros))
    packed = compsgd.packed_num_bytes(-(-numel // num_shards), num_bits, zeros)
    size = format.size_bytes(num_shards)
    assert size % 4 == 0
    assert packed <= size < packed + 4


@given(numels, shards)
def test_float32_is_4_bytes_an_element(numel, num_shards):
    size = WireFormat(numel, None).size_bytes(num_shards)
    assert size == 4 * -(-numel // num_shards)


@pytest.mark.parametrize("alphabet", [None, ballot_alphabet(3, zeros=False)])
def test_each_shard_has_a_header(alphabet):
    plain, headed = (WireFormat(1000, alphabet, header_bytes=n) for n in (0, 28))
    for num_shards in (1, 7):
        assert headed.size_bytes(num_shards) == plain.size_bytes(num_shards) + 28


@pytest.mark.parametrize(("num_bits", "size"), [(1, 128), (3, 376), (8, 1000)])
def test_sizes_that_anyone_can_work_out(num_bits, size):
    """1000 elements: 125, 375 and 1000 bytes, in whole words."""
    assert WireFormat(1000, ballot_alphabet(num_bits, zeros=False)).size_bytes(1) == size


def test_formats_are_keys():
    """The ledger remembers by format what a collective costs."""
    one, other = (RoundFormat(WireFormat(5, ballot_alphabet(3, zeros=True), 28)) for _ in range(2))
    assert hash(one) == hash(other)
    assert one == other
    assert one != RoundFormat(WireFormat(5, ballot_alphabet(3, zeros=False), 28))
    assert one.result is None

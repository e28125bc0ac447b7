"""Packing is exact, reversible, and as small as promised; damaged bytes are never levels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compsgd import CompsgdError, pack, packed_num_bytes, unpack
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.bit_packing import group_for

ALPHABETS = [(num_bits, zeros) for num_bits in range(1, 9) for zeros in (False, True)]


def random_levels(numel, num_bits, zeros, seed=0):
    generator = torch.Generator().manual_seed(seed)
    largest = 2 ** (num_bits - 1)
    levels = torch.randint(-largest, largest + 1, (numel,), generator=generator)
    if not zeros:
        levels[levels == 0] = largest
    return levels


@pytest.mark.parametrize(("num_bits", "zeros"), ALPHABETS)
def test_round_trip_and_size_at_every_length(num_bits, zeros):
    """Every part of a group behind up to 8 groups, which is two times the lanes: from there on it
    is the same again, up to the first block."""
    longest = 9 * group_for(ballot_alphabet(num_bits, zeros)).num_elements
    levels = random_levels(2000, num_bits, zeros)
    for numel in [*range(longest), 1999, 2000]:
        packed = pack(levels[:numel], num_bits, zeros)
        assert packed.dtype == torch.uint8
        assert packed.shape == (packed_num_bytes(numel, num_bits, zeros),)
        assert torch.equal(unpack(packed, numel, num_bits, zeros), levels[:numel].to(torch.int16))


@pytest.mark.parametrize(("num_bits", "zeros"), ALPHABETS)
@pytest.mark.parametrize("numel", [4095, 4096, 4097, 7680, 123_456])
def test_round_trip_over_blocks(num_bits, zeros, numel):
    levels = random_levels(numel, num_bits, zeros)
    assert torch.equal(unpack(pack(levels, num_bits, zeros), numel, num_bits, zeros), levels)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_round_trip_of_any_levels(data):
    num_bits, zeros = data.draw(st.sampled_from(ALPHABETS))
    largest = 2 ** (num_bits - 1)
    level = st.integers(-largest, largest)
    levels = data.draw(st.lists(level if zeros else level.filter(bool), max_size=100))
    packed = pack(torch.tensor(levels, dtype=torch.int64), num_bits, zeros)
    assert unpack(packed, len(levels), num_bits, zeros).tolist() == levels


@pytest.mark.parametrize("num_bits", range(1, 9))
def test_size_where_zeros_are_broken(num_bits):
    for numel in (*range(200), 3_217_226):
        assert packed_num_bytes(numel, num_bits) == math.ceil(numel * num_bits / 8)


@pytest.mark.parametrize("num_bits", range(1, 9))
def test_size_where_zeros_are_kept(num_bits):
    entropy = math.log2(2**num_bits + 1)
    for numel in (*range(1000, 1100), 3_217_226):
        bits = 8 * packed_num_bytes(numel, num_bits, zeros=True)
        assert bits >= numel * entropy
        limit = 1.05 * entropy * numel if num_bits <= 4 else (num_bits + 1) * numel + 7
        assert bits <= limit


def may_be_packed(data, numel, num_bits, zeros):
    """Whether some levels pack to exactly these bytes."""
    try:
        levels = unpack(torch.tensor(data, dtype=torch.uint8), numel, num_bits, zeros)
    except CompsgdError:
        return False
    assert pack(levels, num_bits, zeros).tolist() == data
    return True


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_valid_levels_or_an_error(data):
    num_bits, zeros = data.draw(st.sampled_from(ALPHABETS))
    numel = data.draw(st.integers(0, 50))
    size = packed_num_bytes(numel, num_bits, zeros)
    wrong_size = data.draw(st.integers(0, 8)) == 0
    raw = data.draw(st.binary(min_size=0 if wrong_size else size, max_size=size + wrong_size))
    accepted = may_be_packed(list(raw), numel, num_bits, zeros)
    assert not (accepted and len(raw) != size)


@pytest.mark.parametrize(("num_bits", "zeros"), ALPHABETS)
def test_one_element_accepts_exactly_its_alphabet(num_bits, zeros):
    size = packed_num_bytes(1, num_bits, zeros)
    largest = 2 ** (num_bits - 1)
    alphabet = [level for level in range(-largest, largest + 1) if level or zeros]
    valid = {tuple(pack(torch.tensor([level]), num_bits, zeros).tolist()) for level in alphabet}
    assert len(valid) == 2**num_bits + zeros
    some = torch.randint(256, (1000, size), generator=torch.Generator().manual_seed(0)).tolist()
    some = [list(i.to_bytes(1, "little")) for i in range(256)] if size == 1 else some
    for data in [*map(list, valid), *some]:
        assert may_be_packed(data, 1, num_bits, zeros) == (tuple(data) in valid)


@pytest.mark.parametrize("num_bits", range(1, 5))
def test_every_word_is_a_string_of_symbols_or_refused(num_bits):
    """The first words of a group in all their values: as many are valid as there are strings."""
    group = group_for(ballot_alphabet(num_bits, zeros=True))
    words = torch.arange(1 << group.word_bits, dtype=torch.int32)
    words = torch.cat([words, words.new_zeros(-words.numel() % 4)])
    low_bytes, spare_bits = divmod(group.word_bits, 8)
    packed = torch.zeros(1, group.num_bytes, words.numel(), dtype=torch.uint8)
    for i in range(low_bytes):
        packed[0, 8 * i] = (words >> 8 * i) & 255
    if spare_bits:
        packed[0, 8 * low_bytes] = words >> 8 * low_bytes
    assert torch.equal(group.words(packed)[0, 0].to(torch.int32), words)
    strings = group.decode(packed)[0, ::8].to(torch.int64)
    assert int(strings[:, : group.num_words].min()) == 0
    assert int(strings[:, : group.num_words].max()) == group.symbols - 1
    weights = torch.tensor([group.symbols**i for i in reversed(range(group.digits))])
    assert torch.equal((strings * weights[:, None]).sum(0), words.to(torch.int64))


def test_dirty_padding_is_refused():
    packed = pack(torch.tensor([1, -1, 1]), num_bits=3)
    packed[-1] |= 0x80
    with pytest.raises(CompsgdError, match="padding"):
        unpack(packed, 3, 3)


def test_symbols_outside_the_alphabet_are_refused():
    with pytest.raises(CompsgdError, match="alphabet"):
        unpack(torch.full((2,), 255, dtype=torch.uint8), 4, 3, zeros=True)


@pytest.mark.parametrize(
    ("levels", "num_bits", "zeros", "message"),
    [
        (torch.tensor([5]), 3, False, "level 5 does not fit"),
        (torch.tensor([-129]), 8, True, "level -129 does not fit"),
        (torch.tensor([0]), 3, False, "level 0"),
        (torch.tensor([0.5]), 3, False, "float32"),
        (torch.tensor([1]), 9, False, "num_bits is 9"),
        (torch.tensor([1]), 0, False, "num_bits is 0"),
        (torch.tensor([1]), True, False, "num_bits is True"),
        (torch.tensor([1], dtype=torch.uint16), 3, False, "uint16"),
        ([1, 2], 3, False, "levels is a list"),
        (torch.tensor([1]), 3, "false", "zeros is 'false'"),
    ],
)
def test_bad_arguments_name_the_value(levels, num_bits, zeros, message):
    with pytest.raises(CompsgdError, match=message):
        pack(levels, num_bits, zeros)


def test_unpack_refuses_a_wrong_type_or_size():
    with pytest.raises(CompsgdError, match="int64"):
        unpack(torch.zeros(3, dtype=torch.int64), 8, 3)
    with pytest.raises(CompsgdError, match=r"\(4,\)"):
        unpack(torch.zeros(4, dtype=torch.uint8), 8, 3)
    with pytest.raises(CompsgdError, match="packed is a bytes"):
        unpack(b"abc", 8, 3)
    with pytest.raises(CompsgdError, match="numel is -1"):
        unpack(torch.zeros(0, dtype=torch.uint8), -1, 3)


def test_any_shape_packs_as_its_flat_vector():
    levels = random_levels(60, 3, False)
    assert torch.equal(pack(levels.view(3, 4, 5), 3), pack(levels, 3))
    assert torch.equal(pack(levels.view(6, 10).t(), 3), pack(levels.view(6, 10).t().flatten(), 3))

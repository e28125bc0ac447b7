"""What a worker does to its gradient, and what it remembers."""

import pytest
import torch

from compsgd import VoteSettings
from compsgd.codec.alphabet import ballot_alphabet, codes_to_levels
from compsgd.codec.base import CodecSpec
from compsgd.codec.registry import codec_for
from compsgd.gradient import Gradient, GradientPart
from compsgd.layout import FlatLayout, Span
from compsgd.rng import BitStream, derive_key, random_bits
from compsgd.voting.encoder import WorkerEncoder

CPU = torch.device("cpu")
NUMEL = 6
LAYOUT = FlatLayout([4, 2])
FIRST = [1.0, -1.0, 0.5, 0.25, -0.5, 2.0]
SECOND = [0.375, -0.25, 0.75, 0.0, 0.25, 1.0]


def codec(num_bits, zeros, compile="off"):
    return codec_for(CodecSpec(ballot_alphabet(num_bits, zeros), "lin", "cpu", compile, False))


def gradient_of(values, present=(True, True)):
    flat = torch.tensor(values)
    parts = [
        GradientPart(span, flat[span.slice])
        for span, here in zip(LAYOUT.spans, present, strict=True)
        if here
    ]
    return Gradient(parts, list(present), LAYOUT, CPU)


def levels_of(encoder, gradient, num_bits=3, bits=None, compile="off"):
    one = codec(num_bits, bits is None, compile)
    codes = torch.zeros(NUMEL, dtype=one.alphabet.code_dtype)
    encoder.encode(codes, gradient, bits, one)
    return codes_to_levels(codes, one.alphabet).tolist()


def range_encoder(**settings):
    return WorkerEncoder.fresh(NUMEL, CPU, VoteSettings(**settings))


def sign_encoder(**settings):
    return WorkerEncoder.fresh(NUMEL, CPU, VoteSettings(**settings), has_range=False)


def test_a_fresh_range_has_seen_nothing():
    state = range_encoder().state
    assert state["max"].tolist() == [-float("inf")] * NUMEL
    assert state["min"].tolist() == [float("inf")] * NUMEL


def test_levels_within_a_decaying_range():
    """The worked example of the design, section 2, and an element more."""
    encoder = range_encoder(decay_min=0.5, decay_max=0.5)
    assert levels_of(encoder, gradient_of(FIRST)) == [4, -4, 4, 4, -4, 4]
    assert levels_of(encoder, gradient_of(SECOND)) == [3, -2, 4, 0, 4, 4]
    assert encoder.state["max"].tolist() == [0.5, -0.25, 0.75, 0.125, 0.25, 1.0]
    assert encoder.state["min"].tolist() == [0.375, -0.5, 0.25, 0, -0.25, 1.0]


def test_each_decay_is_of_its_own_bound():
    encoder = range_encoder(decay_min=0.5, decay_max=0.25)
    levels_of(encoder, gradient_of([8.0] * NUMEL))
    levels_of(encoder, gradient_of([3.0] * NUMEL))
    assert encoder.state["max"].tolist() == [3.0] * NUMEL
    assert encoder.state["min"].tolist() == [3.0] * NUMEL
    levels_of(encoder, gradient_of([-8.0] * NUMEL))
    assert encoder.state["max"].tolist() == [0.75] * NUMEL


@pytest.mark.parametrize("compile", ["off", "native"])
@pytest.mark.parametrize("kind", ["signs", "range"])
def test_level_0_is_broken_as_its_bit_says(kind, compile):
    bits = BitStream(derive_key(0, "test"), start=3)
    encoder = sign_encoder() if kind == "signs" else range_encoder()
    num_bits = 1 if kind == "signs" else 3
    found = levels_of(encoder, gradient_of([0.0] * NUMEL), num_bits, bits, compile)
    expected = random_bits(bits.key, bits.start, NUMEL)
    assert found == [2 * bit - 1 for bit in expected.tolist()]
    assert len(set(found)) == 2


def test_signs_remember_nothing():
    encoder = sign_encoder()
    assert levels_of(encoder, gradient_of(SECOND), num_bits=1) == [1, -1, 1, 0, 1, 1]
    assert encoder.state == {}
    assert encoder.part(Span(1, 2)).state == {}


def test_a_range_sees_only_where_there_is_a_gradient():
    encoder = range_encoder()
    levels_of(encoder, gradient_of(FIRST, present=(False, True)))
    assert encoder.state["max"].tolist() == [-float("inf")] * 4 + [-0.5, 2.0]


def test_a_part_has_the_same_memory_and_decays():
    encoder = range_encoder(decay_max=0.5)
    part = encoder.part(Span(4, 6))
    layout = FlatLayout([2])
    one = codec(3, zeros=True)
    for value in (8.0, 1.0):
        values = torch.full((2,), value)
        gradient = Gradient([GradientPart(Span(0, 2), values)], [True], layout, CPU)
        part.encode(torch.zeros(2, dtype=torch.uint8), gradient, None, one)
    assert encoder.state["max"].tolist() == [-float("inf")] * 4 + [4.0] * 2

"""What a worker does to its gradient, and what it remembers."""

import numpy as np
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


# Momentum and error feedback.


def f32(value):
    return np.float32(value)


def stated(values_by_round, num_bits, beta, feedback, decay, binning="lin", broken=None):
    """The levels of one element, round by round, as the design states them: each product and sum
    float32 by itself.

    Args:
        broken: what a level 0 becomes in each round; None where zeros are kept.
    """
    largest = 2 ** (num_bits - 1)
    u, e, upper, lower, levels = f32(0), f32(0), -np.inf, np.inf, []
    for round_, g in enumerate(values_by_round):
        x = f32(g)
        if beta:
            x = u = f32(f32(u * f32(beta)) + f32(x * f32(1 - beta)))
        x = f32(x + e) if feedback else x
        upper, lower = max(x, f32(upper * f32(decay))), min(x, f32(lower * f32(decay)))
        level = 0
        if x != 0:
            bound = abs(upper if x > 0 else lower)
            if binning == "lin":
                share = f32(abs(x) / bound)
            else:
                share = f32(np.log(f32(abs(x) + f32(1.0001))) / np.log(f32(bound + f32(1.0001))))
            level = int(np.sign(x) * np.ceil(f32(share * f32(largest))))
        if level == 0 and broken is not None:
            level = broken[round_]
        levels.append(level)
        bound = abs(upper if level > 0 else lower)
        if binning == "lin":
            stands_for = f32(f32(abs(level) / largest) * bound)
        else:
            logarithm = f32(np.log(f32(bound + f32(1.0001))))
            power = f32(np.exp(f32(f32(abs(level) / largest) * logarithm)))
            stands_for = max(f32(0), f32(power - f32(1.0001)))
        e = f32(x - np.sign(level) * stands_for) if feedback else e
    return levels, {"momentum": u, "error": e, "max": upper, "min": lower}


SOMETHING = {"momentum": 0.0, "error_feedback": False}


@pytest.mark.parametrize("compile", ["off", "native"])
@pytest.mark.parametrize("rand_zero", [True, False])
@pytest.mark.parametrize("num_bits", [1, 3, 8])
@pytest.mark.parametrize(
    "kept",
    [{"momentum": 0.9}, {"error_feedback": True}, {"momentum": 0.7, "error_feedback": True}],
    ids=["momentum", "feedback", "both"],
)
def test_levels_and_memory_are_as_stated(kept, num_bits, rand_zero, compile):
    settings = SOMETHING | kept
    decay = 0.9
    generator = torch.Generator().manual_seed(3)
    rounds = torch.randn(12, NUMEL, generator=generator)
    rounds[rounds.abs() < 0.4] = 0
    rounds[:, 0] = 0
    bits = BitStream(derive_key(0, "test"), start=3) if rand_zero else None
    encoder = range_encoder(
        num_bits=num_bits, decay_max=decay, decay_min=decay, rand_zero=rand_zero, **kept
    )
    found = [levels_of(encoder, gradient_of(g.tolist()), num_bits, bits, compile) for g in rounds]
    signs = None if bits is None else random_bits(bits.key, bits.start, NUMEL) * 2 - 1
    for i in range(NUMEL):
        broken = None if signs is None else [int(signs[i].to(torch.int8))] * len(rounds)
        levels, memory = stated(
            rounds[:, i].tolist(), num_bits, settings["momentum"], settings["error_feedback"],
            decay, broken=broken,
        )  # fmt: skip
        assert [one[i] for one in found] == levels
        for name, flat in encoder.state.items():
            assert flat[i].item() == memory[name], name


def test_exp_levels_stand_for_what_is_stated():
    rounds = torch.randn(8, NUMEL, generator=torch.Generator().manual_seed(4))
    encoder = range_encoder(error_feedback=True, binning="exp", rand_zero=False)
    one = codec_for(CodecSpec(ballot_alphabet(3, True), "exp", "cpu", "off", False))
    for gradient in rounds:
        codes = torch.zeros(NUMEL, dtype=one.alphabet.code_dtype)
        encoder.encode(codes, gradient_of(gradient.tolist()), None, one)
    for i in range(NUMEL):
        levels, memory = stated(rounds[:, i].tolist(), 3, 0.0, True, 1.0, "exp")
        assert codes_to_levels(codes, one.alphabet)[i].item() == levels[-1]
        assert encoder.state["error"][i].item() == pytest.approx(memory["error"], abs=1e-6)


def test_feedback_adds_up_to_what_was_not_sent():
    """After any number of rounds: the sum of gradients is the sum of what was sent, and the
    error."""
    encoder = range_encoder(error_feedback=True, num_bits=2)
    generator = torch.Generator().manual_seed(5)
    total, sent = torch.zeros(NUMEL).double(), torch.zeros(NUMEL).double()
    for _ in range(50):
        gradient = torch.randn(NUMEL, generator=generator)
        levels = torch.tensor(levels_of(encoder, gradient_of(gradient.tolist()), 2))
        bound = torch.where(levels > 0, encoder.state["max"], encoder.state["min"]).abs()
        total += gradient
        sent += levels / 2 * bound
    assert torch.allclose(total, sent + encoder.state["error"], atol=1e-4)


def test_memory_stays_where_there_is_no_gradient():
    encoder = range_encoder(momentum=0.5, error_feedback=True)
    levels_of(encoder, gradient_of(FIRST))
    before = {name: values.clone() for name, values in encoder.state.items()}
    levels_of(encoder, gradient_of(SECOND, present=(False, True)))
    for name, values in encoder.state.items():
        assert torch.equal(values[:4], before[name][:4])
    assert not torch.equal(encoder.state["momentum"][4:], before["momentum"][4:])


def test_what_is_smoothed_is_the_running_mean():
    encoder, plain = range_encoder(momentum=0.75), range_encoder()
    gradient = gradient_of(FIRST, present=(False, True))
    levels_of(encoder, gradient)
    (part,) = encoder.smoothed(gradient).parts
    assert part.values.tolist() == [-0.125, 0.5]
    assert plain.smoothed(gradient) is gradient
    assert (encoder.has_feedback, range_encoder(error_feedback=True).has_feedback) == (False, True)


def test_the_worked_example_of_the_design():
    """Section 2b: one element, momentum 0.5, error feedback."""
    seen = {}
    for third in (0.25, 0.3125):
        encoder = range_encoder(momentum=0.5, error_feedback=True)
        for round_, value in enumerate((1.0, -0.5, third, -1.0)):
            level = levels_of(encoder, gradient_of([value] * NUMEL))[0]
            state = {name: flat[0].item() for name, flat in encoder.state.items()}
            seen[third, round_] = (level, *(state[name] for name in ("momentum", "max", "error")))
    assert [seen[0.25, round_] for round_ in range(4)] == [
        (4, 0.5, 0.5, 0), (0, 0, 0.5, 0), (1, 0.125, 0.5, 0), (-4, -0.4375, 0.5, 0)
    ]  # fmt: skip
    assert seen[0.3125, 2] == (2, 0.15625, 0.5, -0.09375)

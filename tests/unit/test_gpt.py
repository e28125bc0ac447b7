"""The transformer: how large it is, what a token may see, and how it starts."""

import math

import pytest
import torch
from torch import nn

from compsgd.workers.data.splits import TextFormat
from compsgd.workers.options import MODEL_SIZES
from compsgd.workers.train.gpt import SIZES
from compsgd.workers.train.models import build_model

TEXT = TextFormat("".join(map(chr, range(32, 97))), context=64)


def build(seed=0, text=TEXT, **settings):
    return build_model("gpt", text, seed, **settings)


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_tokens", [65, 100])
def test_sizes_are_those_of_the_readme(size, num_tokens):
    text = TextFormat("".join(map(chr, range(num_tokens))), context=64)
    untied, tied = (
        num_parameters(build(text=text, size=size, tie_embeddings=ties)) for ties in (False, True)
    )
    for count in (untied, tied):
        assert count == pytest.approx({"small": 160_000, "base": 1_000_000}[size], rel=0.05)
    assert untied - tied == num_tokens * SIZES[size].channels


def test_sizes_are_those_of_the_command():
    assert tuple(SIZES) == MODEL_SIZES


def test_a_token_sees_itself_and_those_before_it():
    model = build()
    tokens = torch.randint(65, (2, 64), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 20] = (tokens[0, 20] + 1) % 65
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert before.shape == (2, 64, 65)
    assert torch.equal(before[0, :20], after[0, :20])
    assert torch.equal(before[1], after[1])
    assert all(not torch.equal(before[0, t], after[0, t]) for t in range(20, 64))


def test_places_make_a_difference_and_fewer_tokens_will_do():
    with torch.no_grad():
        logits = build()(torch.zeros(1, 8, dtype=torch.int64))
    assert logits.shape == (1, 8, 65)
    assert not torch.equal(logits[0, 0], logits[0, 7])


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_it_starts_as_gpt2(tie_embeddings):
    model = build(tie_embeddings=tie_embeddings)
    assert (model.head.weight is model.embedding.weight) == tie_embeddings
    layers = SIZES["small"].layers
    residual = {f"blocks.{i}.{name}" for i in range(layers) for name in ("attention.out", "shrink")}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            std = 0.02 / math.sqrt(2 * layers) if name in residual else 0.02
            assert module.weight.std().item() == pytest.approx(std, rel=0.1), name
        if getattr(module, "bias", None) is not None:
            assert not module.bias.any(), name
    inputs = torch.arange(64).view(1, 64)
    loss = nn.functional.cross_entropy(model(inputs)[0], inputs[0].roll(-1))
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)


def test_weights_depend_on_the_seed_alone():
    one, same, other = (build(seed).state_dict() for seed in (0, 0, 1))
    assert list(one) == list(same)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_every_weight_learns():
    model = build(tie_embeddings=True)
    inputs = torch.randint(65, (4, 64), generator=torch.Generator().manual_seed(0))
    model(inputs).sum(dim=2).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

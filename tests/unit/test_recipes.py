"""A recipe for every optimizer, of values that its options and settings take."""

import pytest

from compsgd.checks import check_lr
from compsgd.optim.optimizers import OPTIMIZERS
from compsgd.settings import VoteSettings, setting_field
from compsgd.workers.recipes import RECIPES, describe_default
from compsgd.workers.train.schedule import SCHEDULES, check_warmup


def test_every_optimizer_has_one():
    assert set(RECIPES) == set(OPTIMIZERS)


@pytest.mark.parametrize("optimizer", RECIPES)
def test_its_values_are_ones_that_can_be(optimizer):
    recipe = RECIPES[optimizer]
    assert check_lr(recipe.lr) > 0
    assert recipe.lr_schedule in SCHEDULES
    # A share: it suits runs of any length.
    assert check_warmup(recipe.warmup) < 0.5
    decay = recipe.range_decay
    settings = VoteSettings(momentum=recipe.momentum, l2=recipe.l2, decay_min=decay)
    for name in ("momentum", "l2", "decay_min"):
        is_usual = getattr(settings, name) == setting_field(name).default
        assert is_usual or name in OPTIMIZERS[optimizer].known_settings


def test_options_of_a_sweep_are_tuples():
    options = RECIPES["adamw"].as_options()
    assert options["lr"] == (RECIPES["adamw"].lr,)
    assert options["range_decay"] == (1.0,)
    assert options["l2"] == RECIPES["adamw"].l2


def test_a_default_in_words():
    assert describe_default("l2") == (
        "depends on the optimizer: 0.0 for sgd, sign_sgd, compressed_sgd, compressed_sgd_vote; "
        "0.01 for adamw"
    )
    assert describe_default("lr_schedule") == "cosine"

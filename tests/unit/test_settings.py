"""The settings of a vote: bounds, defaults, and what clients make of them."""

import dataclasses
import inspect

import pytest
import torch

import compsgd
from compsgd.comm import VoteState
from compsgd.errors import SettingError
from compsgd.optim.optimizers import OPTIMIZERS
from compsgd.settings import VoteSettings, describe, setting_field, takes_settings

NAMES = [one.name for one in dataclasses.fields(VoteSettings)]
CLIENTS = [*OPTIMIZERS.values(), compsgd.VoteAggregator, VoteState]
each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)

BAD = [
    ("num_bits", 0), ("num_bits", 9), ("num_bits", 3.0), ("num_bits", True),
    ("binning", "log"), ("binning", 3),
    ("decay_min", 0), ("decay_min", 1.1), ("decay_max", float("nan")), ("decay_max", "1"),
    ("momentum", 1), ("momentum", -0.1), ("momentum", float("nan")), ("momentum", True),
    ("momentum", 1 - 1e-12), ("error_feedback", 1), ("l2", -1e-9), ("l2", float("inf")),
    ("beta1", 1.0), ("beta2", "0.9"),
    ("exempt_optimizer", "lion"), ("exempt_lr", -0.1), ("exempt_lr", "lr"),
    ("rand_zero", 1), ("rand_zero", "true"),
    ("seed", -1), ("seed", 1.5),
    ("scale", "mean"), ("scale", float("inf")), ("scale", float("nan")), ("scale", True),
    ("exchange", 3), ("exchange", None),
    ("min_compress_numel", -1), ("exempt_1d", 0), ("start_vote_iter", -1),
    ("strict", None), ("count_usages", "no"),
    ("compile", "maybe"), ("compile", True), ("entropy_coding", "maybe"), ("entropy_coding", True),
    ("check_every", -1), ("check_every", 1.5), ("verify_fraction", 1.1), ("verify_fraction", -0.1),
    ("fallback", None),
    ("num_chunks", 0), ("num_chunks", 4097), ("num_chunks", "auto"), ("num_chunks", 2.5),
    ("timeout_s", 0), ("timeout_s", float("inf")), ("timeout_s", "300"),
]  # fmt: skip

GOOD = [
    ("num_bits", 1), ("num_bits", 8), ("binning", "exp"), ("decay_min", 1), ("decay_max", 1e-9),
    ("seed", 2**70), ("scale", "mean_abs"), ("scale", -1e30), ("scale", 0), ("timeout_s", 0.001),
    ("momentum", 0), ("momentum", 0.999), ("l2", 0), ("exempt_lr", None), ("exempt_lr", 0),
    ("num_chunks", None), ("num_chunks", 1),
    ("compile", "native"), ("entropy_coding", "auto"), ("exchange", "whatever a registry has"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(SettingError) as caught:
        VoteSettings(**{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; it must be ")


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_bounds_are_taken(name, value):
    assert getattr(VoteSettings(**{name: value}), name) == value


def test_every_setting_has_a_bad_value_here():
    assert {name for name, _ in BAD} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_pass_their_own_check(name):
    one = setting_field(name)
    assert one.metadata["kind"].check(name, one.default) == one.default
    assert one.metadata["help"].endswith(".")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VoteSettings().num_bits = 2


def test_numbers_are_kept_as_floats_and_integers():
    settings = VoteSettings(decay_min=1, timeout_s=5, scale=2)
    assert [type(value) for value in (settings.decay_min, settings.timeout_s, settings.scale)] == [
        float
    ] * 3


def test_the_factor_of_a_scale():
    assert VoteSettings(scale=0.5).factor == 0.5
    assert VoteSettings(scale="mean_abs").factor is None


def test_what_lasts_and_what_is_shared():
    settings = VoteSettings()
    assert {"num_bits", "binning", "decay_min", "seed"} <= set(settings.lasting())
    assert not {"scale", "exchange", "compile", "timeout_s"} & set(settings.lasting())
    assert not {"decay_min", "decay_max", "compile", "timeout_s"} & set(settings.shared())
    assert {"num_bits", "scale", "exchange"} <= set(settings.shared())
    assert VoteSettings(**dataclasses.asdict(settings)) == settings


def client_settings(settings=None, **changes):
    return VoteSettings.of_client("Client", ("num_bits", "seed"), settings, changes)


def test_changes_win_over_settings():
    assert client_settings(VoteSettings(num_bits=2, seed=4), seed=5) == VoteSettings(
        num_bits=2, seed=5
    )
    assert client_settings() == VoteSettings()


def test_what_a_client_does_not_know_is_refused():
    with pytest.raises(SettingError, match=r"Client has no setting bits; there are num_bits, seed"):
        client_settings(bits=3)
    with pytest.raises(SettingError, match=r"Client has no setting binning;"):
        client_settings(binning="lin")
    with pytest.raises(SettingError, match=r"no setting binning, which is 'exp'; there are num_b"):
        client_settings(VoteSettings(binning="exp"))
    with pytest.raises(SettingError, match="settings is a dict; it must be VoteSettings"):
        client_settings({"num_bits": 2})


def names_for(client):
    """An optimizer's `exchange` is an argument of its own, which takes an exchange, too."""
    own = {"exchange"} if client in OPTIMIZERS.values() else set()
    return [name for name in NAMES if name not in own]


@each_client
def test_signatures_and_docstrings_show_the_settings(client):
    parameters = inspect.signature(client).parameters
    shown = [name for name in names_for(client) if name in parameters]
    assert shown
    assert "changes" not in parameters
    for name in shown:
        own_defaults = getattr(client, "own_defaults", {})
        assert parameters[name].default == own_defaults.get(name, setting_field(name).default)
        assert f"{name}: " in client.__doc__
    described = {name for name in names_for(client) if f" {name}: " in client.__doc__}
    assert described == set(shown)


@each_client
def test_signatures_tell_the_truth(client):
    """What is shown is taken, and what is not shown is refused."""
    shown = inspect.signature(client).parameters
    required = {"params": [torch.zeros(2, requires_grad=True)]}
    if client in OPTIMIZERS.values():
        required["lr"] = 0.1
    for name in names_for(client):
        setting = {name: setting_field(name).default}
        if name in shown:
            client(**required, **setting)
        else:
            with pytest.raises(SettingError, match=f"has no setting {name}"):
                client(**required, **setting)


def test_descriptions_are_lines_of_a_docstring():
    text = describe(("num_bits", "count_usages"))
    assert text.startswith("num_bits: Bits of a level;")
    assert "\ncount_usages: " in text
    assert max(map(len, text.splitlines())) <= 84


def test_a_decorated_client():
    @takes_settings("seed", arguments="first: of all.")
    class Client:
        """
        Args:
            {arguments}
            {settings}
        """

        def __init__(self, first, **changes):
            self.changes = changes

    assert str(inspect.signature(Client)) == "(first, *, seed: int = 0)"
    assert "first: of all." in Client.__doc__
    assert "seed: Fixes every random bit." in Client.__doc__
    assert Client(1, seed=3).changes == {"seed": 3}

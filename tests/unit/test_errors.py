"""One base for all errors, and each is what Python's own convention would have it be."""

import inspect

import pytest

import compsgd
from compsgd import errors
from compsgd.comm.group.collectives import CollectiveError
from compsgd.internal_errors import StoreError

KINDS = {
    errors.SettingError: ValueError,
    errors.DamagedDataError: ValueError,
    errors.GradientError: ArithmeticError,
    errors.PeerError: RuntimeError,
}


def test_all_kinds_are_known_here_and_public():
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass)}
    assert kinds == {errors.CompsgdError, *KINDS}
    assert {kind.__name__ for kind in kinds} <= set(compsgd.__all__)


@pytest.mark.parametrize(("kind", "builtin"), KINDS.items())
def test_a_kind_is_one_of_ours_and_one_of_pythons(kind, builtin):
    assert issubclass(kind, errors.CompsgdError)
    assert issubclass(kind, builtin)
    others = set(KINDS.values()) - {builtin}
    assert not issubclass(kind, tuple(others))


def test_the_base_is_none_of_pythons_kinds():
    assert errors.CompsgdError.__bases__ == (Exception,)


@pytest.mark.parametrize("kind", [CollectiveError, StoreError])
def test_what_fails_between_processes_is_a_peers_doing(kind):
    assert issubclass(kind, errors.PeerError)
    assert not issubclass(kind, ValueError)


def test_kinds_tell_a_callers_mistake_from_damage():
    assert not issubclass(errors.SettingError, errors.DamagedDataError)
    assert not issubclass(errors.DamagedDataError, errors.SettingError)

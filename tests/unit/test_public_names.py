"""Public names say where people import them from, so that a file can be moved and no byte on disk changes."""

from __future__ import annotations

import pickle
from types import FunctionType

import pytest

import eventflow
from eventflow import RunView, Timeline
from eventflow.fingerprints.type_describer import describe
from eventflow.projections import code_of_fold
from eventflow.runner.failures import failure_of

NAMED = [
    name
    for name in eventflow.__all__
    if isinstance(getattr(eventflow, name), type | FunctionType) and name != "State"
]


@pytest.mark.parametrize("name", NAMED)
def test_a_public_name_is_of_eventflow(name: str) -> None:
    """Classes and functions; `State` is a Struct, whose fields msgspec looks up in its own module."""
    thing = getattr(eventflow, name)
    assert (thing.__module__, thing.__qualname__) == ("eventflow", name)
    assert pickle.loads(pickle.dumps(thing)) is thing


def test_what_a_log_says_of_an_error_is_its_public_name() -> None:
    """Failures name types, and so do descriptions; neither names a file of the package."""
    assert failure_of(eventflow.InputError("no such key")).type == "eventflow.InputError"
    described = describe(eventflow.Result)
    assert described is not None
    assert described.type.name == "eventflow:Result"


def test_a_projection_is_known_by_the_file_that_folds() -> None:
    """Two public projections of different files have different digests, though both are of `eventflow`."""
    assert code_of_fold(Timeline()) == code_of_fold(Timeline())
    moved = type("Timeline", (), {"name": "timeline", "version": 1, "apply": RunView.apply})
    assert code_of_fold(moved()) != code_of_fold(Timeline())


def test_a_module_that_is_named_and_missing_is_an_error() -> None:
    """A digest of less code than the author named would let old snapshots pass."""

    class Misspelt:
        name = "misspelt"
        version = 1
        modules = ("eventflow.machine.evolve", "eventflow.machine.evolution")

        def initial(self) -> int:
            return 0

        def apply(self, state: int, record: object) -> int:
            return state + 1

    with pytest.raises(ModuleNotFoundError, match="evolution"):
        code_of_fold(Misspelt())

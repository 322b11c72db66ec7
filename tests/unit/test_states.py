"""What people see: the tree, its predicates, equality, and that states dump and load without opening a result."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from eventflow import NoResult, Result, TaskError, states
from eventflow.events import Failure
from eventflow.result import Inline, SerializationError
from eventflow.states import State

TREE: dict[str, tuple[str, ...]] = {
    "Pending": ("pending",),
    "Scheduled": ("pending", "scheduled"),
    "Retrying": ("pending", "scheduled", "retrying"),
    "Paused": ("pending", "scheduled", "paused"),
    "Queued": ("pending", "queued"),
    "Running": ("running",),
    "Finished": ("finished",),
    "Success": ("finished", "successful"),
    "Cached": ("finished", "successful", "cached"),
    "Mapped": ("finished", "successful", "mapped"),
    "Skipped": ("finished", "successful", "skipped"),
    "Failed": ("finished", "failed"),
    "TimedOut": ("finished", "failed"),
    "TriggerFailed": ("finished", "failed"),
    "Crashed": ("finished", "failed"),
    "Cancelled": ("finished", "cancelled"),
}
"""Every class, and the predicates that hold for it: all others do not."""

PARENTS = {
    "Scheduled": "Pending", "Retrying": "Scheduled", "Paused": "Scheduled", "Queued": "Pending",
    "Success": "Finished", "Cached": "Success", "Mapped": "Success", "Skipped": "Success",
    "Failed": "Finished", "TimedOut": "Failed", "TriggerFailed": "Failed", "Crashed": "Failed",
    "Cancelled": "Finished",
}  # fmt: skip
CLASSES = [getattr(states, name) for name in TREE]
PREDICATES = sorted(name for name in dir(State) if name.startswith("is_"))
FORMATS = [
    pytest.param(states.encode_json, states.decode_json, id="json"),
    pytest.param(states.encode_msgpack, states.decode_msgpack, id="msgpack"),
]
WHEN = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
MORE: dict[str, Any] = {
    "start_time": WHEN,
    "run_count": 3,
    "waiting_for": ("me", "you"),
    "source": ("run/x", 7),
    "n_map_states": 2,
    "failure": Failure(type="E", message="m", cause=Failure(type="F", message="n")),
    "task": "t[1]",
}


def full(kind: type[State]) -> State:
    """A state with something in every field."""
    values: dict[str, Any] = {"message": "why", "_result": Result({"a": [1, None]})}
    if "cached_inputs" in kind.__struct_fields__:
        values["cached_inputs"] = {"x": Result((1, 2)), "y[0]": Result(None)}
    return kind(**values, **{name: value for name, value in MORE.items() if name in kind.__struct_fields__})


@pytest.mark.parametrize("kind", CLASSES)
def test_predicates(kind: type[State]) -> None:
    """Each predicate holds for its class and those below it."""
    held = {name for name in PREDICATES if getattr(kind(), name)()}
    assert held == {f"is_{name}" for name in TREE[kind.__name__]}


@pytest.mark.parametrize("kind", CLASSES)
def test_the_class_tree(kind: type[State]) -> None:
    """PIN-4's tree, class by class; and the union names them all."""
    assert kind.__mro__[1].__name__ == PARENTS.get(kind.__name__, "State")
    assert kind in states.AnyState.__args__
    assert len(states.AnyState.__args__) == len(TREE)


def test_there_is_no_other_predicate() -> None:
    """Every predicate is told of above."""
    assert {f"is_{name}" for held in TREE.values() for name in held} == set(PREDICATES)


@pytest.mark.parametrize("kind", CLASSES)
def test_equality_is_class_and_all_but_the_message(kind: type[State]) -> None:
    """Equal when of one class with equal facts, whatever the message; never equal to another class."""
    assert full(kind) == full(kind)
    assert full(kind) == msgspec.structs.replace(full(kind), message="other")
    assert full(kind) != msgspec.structs.replace(full(kind), _result=Result(0))
    assert all(full(kind) != full(other) for other in CLASSES if other is not kind)
    for name in kind.__struct_fields__:
        if name in MORE:
            assert full(kind) != msgspec.structs.replace(
                full(kind), **{name: kind.__struct_defaults__ and getattr(kind(), name)}
            )


def test_states_can_stand_in_sets() -> None:
    """The hash is the object's own, so unhashable results do no harm."""
    one, two = full(states.Success), full(states.Success)
    assert one == two
    assert len({one, two, one}) == 2


def test_states_cannot_be_edited() -> None:
    """They are frozen."""
    with pytest.raises(AttributeError):
        states.Success().message = "x"  # type: ignore[misc]


@pytest.mark.parametrize(("encode", "decode"), FORMATS)
@pytest.mark.parametrize("kind", CLASSES)
def test_dump_and_load(kind: type[State], encode: Any, decode: Any) -> None:
    """All fields come back; results come back serialized, open to equal values, and dump to the same bytes."""
    before = full(kind)
    data = encode(before)
    after = decode(data)
    assert type(after) is kind
    for name in kind.__struct_fields__:
        if name not in ("_result", "cached_inputs"):
            assert getattr(after, name) == getattr(before, name), name
    assert after._result.serialized
    assert after._result.deserialize().value == {"a": [1, None]}
    inputs = {
        name: result.deserialize().value for name, result in getattr(after, "cached_inputs", {}).items()
    }
    assert inputs == ({"x": (1, 2), "y[0]": None} if "cached_inputs" in kind.__struct_fields__ else {})
    assert encode(after) == data


@pytest.mark.parametrize(("encode", "decode"), FORMATS)
def test_no_result_is_not_a_result_of_none(encode: Any, decode: Any) -> None:
    """That nothing was produced and that None was produced stay apart."""
    nothing, none = states.Success(), states.Success(_result=Result(None))
    assert nothing != none
    assert decode(encode(nothing))._result is NoResult
    assert decode(encode(nothing)).result is NoResult
    assert decode(encode(none)).result is None
    assert decode(encode(none))._result is not NoResult


class Counted:
    """A serializer that counts its work."""

    def __init__(self) -> None:
        self.serialized = self.opened = 0

    def serialize(self, value: Any) -> Inline:
        """Count one."""
        self.serialized += 1
        return Inline("counted", repr(value).encode(), b"d" * 16)

    def deserialize(self, payload: Inline) -> Any:
        """Count one."""
        self.opened += 1
        return payload.data.decode()


def test_serialization_is_automatic_on_dump_and_never_happens_on_load() -> None:
    """Dumping calls the serializer, loading none: bytes that nobody could open load, and fail when opened."""
    serializer = Counted()
    state = states.Success(_result=Result(5, serializer=serializer))
    data = states.encode_json(state)
    assert (serializer.serialized, serializer.opened) == (1, 0)
    loaded = states.decode_json(data)
    assert (serializer.serialized, serializer.opened) == (1, 0)
    with pytest.raises(ValueError, match="counted"):
        loaded.result  # noqa: B018 - the access is the test
    assert states.encode_json(loaded) == data


def test_a_result_is_opened_once() -> None:
    """`.result` opens on first access and keeps the value; a failure to open is not kept."""
    serializer = Counted()
    state = states.Success(_result=Result(Inline("counted", b"5", b"d" * 16), True, serializer))
    assert (state.result, state.result) == ("5", "5")
    assert serializer.opened == 1


@pytest.mark.parametrize("encode", [states.encode_json, states.encode_msgpack])
def test_what_cannot_be_kept_is_a_named_error(encode: Any) -> None:
    """In the result or among the inputs: SerializationError, never a silent drop."""
    bad = Result(i for i in ())
    with pytest.raises(SerializationError, match="generator"):
        encode(states.Success(_result=bad))
    with pytest.raises(SerializationError, match="generator"):
        encode(states.Running(cached_inputs={"x": bad}))


@pytest.mark.parametrize("kind", CLASSES)
def test_unknown_fields_are_ignored(kind: type[State]) -> None:
    """A newer version's fields do no harm."""
    data = json.loads(states.encode_json(full(kind)))
    assert states.decode_json(json.dumps({**data, "mood": "good"})) == states.decode_json(json.dumps(data))


@pytest.mark.parametrize("data", [{"type": "Elated"}, {"message": "x"}, {"type": None}, {"type": "State"}])
def test_an_unknown_or_missing_type_is_an_error(data: dict[str, Any]) -> None:
    """It is never guessed."""
    with pytest.raises(msgspec.ValidationError):
        states.decode_json(json.dumps(data))
    with pytest.raises(msgspec.ValidationError):
        states.decode_msgpack(msgspec.msgpack.encode(data))


def test_mapped_dumps_only_how_many_children_it_has() -> None:
    """Children travel beside it: live it gives their values, loaded as many unknowns."""
    live = states.Mapped.of([states.Success(_result=Result(1)), states.Skipped()])
    assert live.result == [1, NoResult]
    assert "map_states" not in states.encode_json(live).decode().replace("n_map_states", "")
    loaded = states.decode_json(states.encode_json(live))
    assert isinstance(loaded, states.Mapped)
    assert loaded.n_map_states == 2
    assert list(loaded.map_states) == [None, None]
    assert loaded.result == [NoResult, NoResult]
    assert loaded == live


def test_a_failed_states_result_is_its_error() -> None:
    """A TaskError that tells task, type and message, the same after loading."""
    state = full(states.TimedOut)
    for found in (state, states.decode_json(states.encode_json(state))):
        error = found.result
        assert isinstance(error, TaskError)
        assert str(error) == "task 't[1]' failed: E: m"
        assert error.failure.cause is not None


def test_a_failure_without_a_task_gives_what_it_has() -> None:
    """A run's own Failed state gives its result."""
    assert states.Failed(_result=Result({"a": 1})).result == {"a": 1}


ENDED: dict[str, states.State] = {
    "ok": states.Success(),
    "bad": states.TimedOut(),
    "hit": states.Cached(),
    "skip": states.Skipped(),
    "stop": states.Cancelled(),
    "run": states.Running(),
    "again": states.Retrying(),
}


@pytest.mark.parametrize(
    ("children", "true", "message"),
    [
        ("", ("finished", "successful"), "0 children"),
        ("ok ok", ("finished", "successful"), "2 children"),
        ("ok bad bad", ("finished", "failed"), "3 children: 2 failed"),
        ("ok bad stop", ("finished", "failed"), "3 children: 1 failed, 1 cancelled"),
        ("ok stop", ("finished", "cancelled"), "2 children: 1 cancelled"),
        ("hit hit", ("finished", "successful", "cached"), "2 children: 2 cached"),
        ("hit ok", ("finished", "successful"), "2 children: 1 cached"),
        ("skip skip", ("finished", "successful", "skipped"), "2 children: 2 skipped"),
        ("run bad ok", ("running",), "3 children: 1 not finished, 1 failed"),
        ("again ok", ("running",), "2 children: 1 not finished"),
    ],
)
@pytest.mark.parametrize("loaded", [False, True])
def test_a_map_answers_for_its_children(
    children: str, true: tuple[str, ...], message: str, loaded: bool
) -> None:
    """Its predicates and its message count them, also after it was dumped and loaded without them."""
    state: states.State = states.Mapped.of([ENDED[name] for name in children.split()])
    if loaded:
        state = states.decode_json(states.encode_json(state))
    held = {name for name in PREDICATES if getattr(state, name)()}
    assert held == {"is_mapped", *(f"is_{name}" for name in true)}
    assert state.message == message

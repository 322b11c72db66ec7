"""Cases 2 to 15 of PIN-4's lineage, results and serialization, in our words."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from operator import eq, ne
from typing import Any

import msgspec
import pytest

from eventflow import (
    MemoryLog,
    Result,
    RunStates,
    SerializationError,
    Skip,
    State,
    TaskError,
    open_run,
    replay,
    task,
)
from eventflow.events import TaskFailed, TaskSucceeded
from eventflow.result import Inline, UnknownSerializer
from eventflow.serializers import Serializer, digest_of
from eventflow.states import (
    AnyState,
    Cached,
    Failed,
    Mapped,
    Success,
    TriggerFailed,
    decode_json,
    decode_msgpack,
    encode_json,
    encode_msgpack,
)
from eventflow.testing.virtual import VirtualWorld, simulated
from tests.parity.looking import RUN, events, flow_of, opened

FORMATS = [
    pytest.param(encode_json, decode_json, id="json"),
    pytest.param(encode_msgpack, decode_msgpack, id="msgpack"),
]


class Counting:
    """A serializer that notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def serialize(self, value: Any) -> Inline:
        """Note it, then do it."""
        self.calls.append("serialize")
        return Serializer().serialize(value)

    def deserialize(self, payload: Inline) -> Any:
        """Note it, then do it."""
        self.calls.append("deserialize")
        return Serializer().deserialize(payload)


async def test_case_2_a_value_is_serialized_once() -> None:
    """2. Given a task with a serializer, when it succeeds and its state is dumped twice, then it is called once."""
    keeper = Counting()

    @task(serializer=keeper)
    async def make() -> list[int]:
        return [1, 2]

    state = (await flow_of(make).options(log=MemoryLog()).run()).result["make"]
    assert encode_json(state) == encode_json(state)
    assert keeper.calls == ["serialize"]
    assert state._result.serialize() is state._result


async def test_case_3_raw_and_stored_form() -> None:
    """3. Given a raw Result, its raw form is itself; given a stored one, a new Result with the value that was read.

    The new one does not know its stored form, as upstream's did: what it is serialized to is equal to it.
    """

    @task
    async def make() -> dict[str, int]:
        return {"a": 1}

    stored = (await flow_of(make).options(log=MemoryLog()).run()).result["make"]._result
    raw = stored.deserialize()
    assert (raw.serialized, raw.value) == (False, {"a": 1})
    assert raw.deserialize() is raw
    assert stored.serialized
    assert raw.serialize() == stored


async def test_case_4_what_cannot_be_stored_is_an_error() -> None:
    """4. Given a value that no serializer can keep, when it must be stored, then its task fails and says where it is.

    A Result without a serializer does not exist: the default one takes its place.
    """

    @task(retries=3)
    async def make() -> dict[str, Any]:
        return {"lock": threading.Lock()}

    log = MemoryLog()
    state = (await flow_of(make).options(log=log, run_id=RUN).run()).result["make"]
    assert type(state) is Failed
    (failed,) = await events(log, TaskFailed)
    assert "value['lock']" in failed.failure.message
    assert (failed.reason, failed.retry_at) == ("unserializable", None)
    assert await events(log, TaskSucceeded) == []
    with pytest.raises(SerializationError, match="lock"):
        encode_json(Success(_result=Result({"lock": threading.Lock()})))


class Careless:
    """A serializer whose answer can go nowhere."""

    def serialize(self, value: Any) -> Any:
        """Give the value as its own bytes."""
        return Inline("careless", value, b"d" * 16)

    def deserialize(self, payload: Inline) -> Any:
        """Never asked."""
        return payload.data


async def test_case_6_a_stored_form_that_cannot_travel() -> None:
    """6. Given a serializer that gives no bytes, when its value is stored, then the task fails.

    The stored form is bytes and not JSON, so that every value which can be kept can be dumped as JSON.
    """

    @task(serializer=Careless())
    async def bad() -> object:
        return object()

    @task
    async def good() -> bytes:
        return b"\xff\x00"

    log = MemoryLog()
    state = await flow_of(lambda: (bad(), good())).options(log=log, run_id=RUN).run()
    assert "not an Inline of str and bytes" in state.result["bad"].failure.message
    assert decode_json(encode_json(state.result["good"])).result == b"\xff\x00"


@task
async def numbers(count: int) -> list[int]:
    """As many as asked for."""
    return list(range(count))


@task(retries=1, retry_delay=60, timeout=5)
async def third(number: int, of: int) -> float:
    """Fails for 0, skips 1."""
    if number == 1:
        raise Skip("one")
    return of / number


@task(cache_for=3600)
async def last(found: Any) -> int:
    """Cached where it runs, and never run after a failure."""
    return len(found)


def everything() -> Any:
    """Calls that end in every way a task can end by itself."""
    many = numbers(4)
    third.map(many, [6, 6, 6, 6])
    last(third(0, many[1]))
    last.named("kept")(many)


async def moments(log: MemoryLog) -> list[State]:
    """The states of all tasks after each event of a run."""
    view, found = await open_run(log, RUN), []
    async for record in log.read(stream=view.stream):
        run_states = RunStates(
            view, (await replay(log, view, stream=view.stream, until=record.position)).state
        )
        for name in run_states:
            state = run_states[name]
            found += [state, *(getattr(state, "map_states", None) or ())]
    return found


@pytest.mark.parametrize(("encode", "decode"), FORMATS)
@simulated
async def test_case_8_every_state_comes_back(encode: Any, decode: Any, world: VirtualWorld) -> None:
    """8. Given every state that a run goes through, when dumped and loaded, then type and public attributes are equal.

    Results are compared opened: the task's declared type, which is part of a live one's serializer, does not travel.
    """
    log = MemoryLog()
    await flow_of(everything).options(log=log, world=world, run_id="before").run()
    await flow_of(everything).options(log=log, world=world, run_id=RUN).run()
    seen = set()
    for state in await moments(log):
        loaded = decode(encode(state))
        assert type(loaded) is type(state)
        for name in {*state.__struct_fields__} - {"_result", "cached_inputs"}:
            assert getattr(loaded, name) == getattr(state, name), name
        if hasattr(state, "cached_inputs"):
            assert opened(loaded) == opened(state)
        if type(state) in (Success, Cached):
            assert loaded.result == state.result
        seen.add(type(state).__name__)
    assert seen == {
        *("Pending", "Running", "Retrying", "Success", "Cached", "Mapped", "Skipped", "Failed"),
        "TriggerFailed",
    }


@pytest.mark.parametrize("name", [kind.__name__ for kind in AnyState.__args__])
async def test_case_9_a_payload_with_only_a_type(name: str) -> None:
    """9. Given only a type, or fields of a later version, then it loads; with no or an unknown type, it fails."""
    bare = decode_json(json.dumps({"type": name}))
    assert type(bare).__name__ == name
    assert (bare.message, bare._result.value) == ("", bare._result)
    assert decode_json(json.dumps({"type": name, "__version__": "9", "mood": 1})) == bare
    for data in ({}, {"message": "x"}, {"type": f"{name}ly"}):
        with pytest.raises(msgspec.ValidationError):
            decode_json(json.dumps(data))


@pytest.mark.parametrize(("encode", "decode"), FORMATS)
@simulated
async def test_case_10_a_mapped_state(encode: Any, decode: Any, world: VirtualWorld) -> None:
    """10. Given a Mapped state, when dumped, then only the width is kept; loaded, it has as many unknown children."""
    flow = flow_of(lambda: third.map([2, 3], [6, 6]))
    live = (await flow.options(log=MemoryLog(), world=world).run()).result["third"]
    assert type(live) is Mapped
    assert live.result == [3.0, 2.0]
    loaded = decode(encode(live))
    assert list(loaded.map_states) == [None, None]
    assert loaded.n_map_states == 2
    assert encode(loaded) == encode(live)


async def test_case_12_a_stored_result_must_say_what_opens_it() -> None:
    """12. Given a stored result without a codec, then loading fails; with an unknown one, opening does."""
    digest = b64encode(digest_of(b"1")).decode()
    kept = {"type": "Success", "_result": ["inline", "nobody", "MQ==", digest]}
    loaded = decode_json(json.dumps(kept))
    with pytest.raises(UnknownSerializer, match="nobody"):
        loaded.result  # noqa: B018 - the access is the test
    with pytest.raises(msgspec.ValidationError):
        decode_json(json.dumps({**kept, "_result": ["inline", None, "MQ==", digest]}))


@pytest.mark.parametrize(("encode", "decode"), FORMATS)
@simulated
async def test_case_13_a_cached_state(encode: Any, decode: Any, world: VirtualWorld) -> None:
    """13. Given a Cached state with inputs, when dumped and loaded, then result, inputs and expiration survive."""
    log = MemoryLog()
    calls = flow_of(lambda: last(numbers(2)))
    await calls.options(log=log, world=world).run()
    cached = (await calls.options(log=log, world=world).run()).result["last"]
    loaded = decode(encode(cached))
    assert type(loaded) is type(cached) is Cached
    assert loaded.result == 2
    assert opened(loaded) == {"found": [0, 1]}
    assert loaded.expires_at is not None
    assert (loaded.expires_at, loaded.source) == (cached.expires_at, cached.source)


class Unpicklable(Exception):
    """What no pickle can take along."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


async def test_case_14_an_exception_that_cannot_be_pickled() -> None:
    """14. Given an exception that cannot be pickled, when shipped, then it arrives as text; the live one is unchanged.

    No exception is ever pickled: type, message and traceback are recorded, of any of them.
    """

    @task
    async def fail() -> None:
        raise Unpicklable("held")

    live = (await flow_of(fail).options(log=MemoryLog()).run()).result["fail"]
    shipped = decode_msgpack(encode_msgpack(live))
    assert isinstance(shipped.result, TaskError)
    assert str(shipped.result) == str(live.result)
    assert str(shipped.result).endswith("Unpicklable: held")
    assert "raise Unpicklable" in shipped.result.failure.traceback
    assert shipped.result.__cause__ is None
    assert type(live.result.__cause__) is Unpicklable


async def test_case_15_equality() -> None:
    """15. Given states of two runs, then those of one class and payload are equal, whatever the message; all can be hashed."""

    @task
    async def refuse(value: Any) -> Any:
        raise Skip(str(value))

    def calls(count: int) -> Any:
        return lambda: (numbers(count), refuse(count))

    log = MemoryLog()
    one, same, other = [(await flow_of(calls(count)).options(log=log).run()).result for count in (2, 2, 3)]
    assert eq(one["numbers"], same["numbers"])
    assert not eq(one["numbers"], other["numbers"])
    assert one["refuse"].message != other["refuse"].message
    assert eq(one["refuse"], other["refuse"])
    assert not eq(one["numbers"], one["refuse"])
    assert not eq(TriggerFailed(), Failed())
    assert len({one["numbers"], same["numbers"]}) == 2


def test_case_15_inequality() -> None:
    """15. Given equal states, then they are not unequal."""
    assert not ne(Success(), Success())

"""The state of a task or a run as people see it: PIN-4's tree of states, frozen and closed.

    State
    ├── Pending ─┬─ Scheduled ─┬─ Retrying
    │            │             └─ Paused
    │            └─ Queued
    ├── Running
    └── Finished ┬─ Success ─┬─ Cached
                 │           ├─ Mapped
                 │           └─ Skipped
                 ├─ Failed ──┬─ TimedOut
                 │           ├─ TriggerFailed
                 │           └─ Crashed
                 └─ Cancelled

Every state has a `message`, a `_result` (a `Result`, or `NoResult`), and the property `result`, the Python value. States that
may run again have `cached_inputs`. States are built on access from the compact state that `evolve` keeps, and never edited.

They are dumped to JSON and MessagePack as a tagged union (`type` is the name of the class) and can be loaded again. Dumping
serializes every `Result`; loading deserializes none. Unknown fields are ignored. An unknown or missing `type` raises
`msgspec.ValidationError`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from eventflow.events import Failure
from eventflow.result import NoResult, NoResultType, Payload, Result, enc_hook

__all__ = [
    "AnyState",
    "Cached",
    "Cancelled",
    "Crashed",
    "Failed",
    "Finished",
    "Mapped",
    "Paused",
    "Pending",
    "Queued",
    "Retrying",
    "Running",
    "Scheduled",
    "Skipped",
    "State",
    "Success",
    "TaskError",
    "TimedOut",
    "TriggerFailed",
    "decode_json",
    "decode_msgpack",
    "encode_json",
    "encode_msgpack",
]


class TaskError(Exception):
    """A task failed. Downstream tasks that run all the same get it in place of a value; `.value()` raises it.

    It is made from the recorded failure, so it is the same live and after a crash. In the process in which the body
    raised, `__cause__` is the live exception.
    """

    def __init__(self, task: str, failure: Failure) -> None:
        super().__init__(task, failure)
        self.task = task
        """The task's name, e.g. `enrich[3]`."""
        self.failure = failure
        for note in failure.notes:
            self.add_note(note)

    def __str__(self) -> str:
        return f"task {self.task!r} failed: {self.failure.type}: {self.failure.message}"


if TYPE_CHECKING:
    AnyResult: TypeAlias = Result | NoResultType
else:

    class AnyResult(ABC):  # noqa: B024 - a name for two classes that share no base
        """The type of `_result`, as the one type that msgspec's decoder hook can ask for."""

    AnyResult.register(Result)
    AnyResult.register(NoResultType)


class State(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True, tag_field="type"):
    """Base of all states; use the classes below it.

    Two states are equal if they have one class and equal fields, messages aside. The hash is that of the object, so a
    state with an unhashable result can be in a set.

    ```python
    from eventflow.states import Retrying

    state = Retrying(message="again in 5 s")
    assert state.is_pending() and state.is_scheduled() and state.is_retrying()
    assert not (state.is_paused() or state.is_queued() or state.is_running() or state.is_finished())
    assert not (state.is_successful() or state.is_cached() or state.is_mapped() or state.is_skipped())
    assert not (state.is_failed() or state.is_cancelled())
    ```
    """

    message: str = ""
    _result: AnyResult = NoResult

    @property
    def result(self) -> Any:
        """The Python value, deserialized now if it is serialized; `NoResult` if there is none.

        Raises `ResultNotLoaded` if the bytes are not in memory.
        """
        opened = self.__dict__.get("opened", self)
        if opened is self:
            opened = self.__dict__["opened"] = self._result.deserialize()
        return opened.value

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        fields = self.__struct_fields__
        return all(getattr(self, name) == getattr(other, name) for name in fields if name != "message")

    __ne__ = object.__ne__  # the negation of `__eq__`; that of Struct compares identity

    def __hash__(self) -> int:
        return id(self) >> 4

    def __repr__(self) -> str:
        """Return the class and the message."""
        name = type(self).__name__
        return f"<{name}: {self.message}>" if self.message else f"<{name}>"

    def is_pending(self) -> bool:
        """Return whether it has not begun, or will begin again."""
        return isinstance(self, Pending)

    def is_scheduled(self) -> bool:
        """Return whether it waits for a moment."""
        return isinstance(self, Scheduled)

    def is_retrying(self) -> bool:
        """Return whether it failed and waits for another attempt."""
        return isinstance(self, Retrying)

    def is_paused(self) -> bool:
        """Return whether it waits for a person or a signal."""
        return isinstance(self, Paused)

    def is_queued(self) -> bool:
        """Return whether it waits for a limit."""
        return isinstance(self, Queued)

    def is_running(self) -> bool:
        """Return whether it is being executed."""
        return isinstance(self, Running)

    def is_finished(self) -> bool:
        """Return whether it has finished, with any outcome."""
        return isinstance(self, Finished)

    def is_successful(self) -> bool:
        """Return whether it finished well. Cached and skipped are; mapped is if all children are."""
        return isinstance(self, Success)

    def is_cached(self) -> bool:
        """Return whether a result was reused that was made before."""
        return isinstance(self, Cached)

    def is_mapped(self) -> bool:
        """Return whether children were made, with any outcome."""
        return isinstance(self, Mapped)

    def is_skipped(self) -> bool:
        """Return whether there was nothing to do."""
        return isinstance(self, Skipped)

    def is_failed(self) -> bool:
        """Return whether it finished, and not well."""
        return isinstance(self, Failed)

    def is_cancelled(self) -> bool:
        """Return whether it was ended by request; then it is neither successful nor failed."""
        return isinstance(self, Cancelled)


CachedInputs: TypeAlias = Mapping[str, Result]


class Pending(State, frozen=True, tag="Pending"):
    """It waits for its turn."""

    cached_inputs: CachedInputs = {}
    """Inputs of the last attempt, by name; an input of several values has one entry for each of them."""


class Scheduled(Pending, frozen=True, tag="Scheduled"):
    """It will run at a moment."""

    start_time: datetime | None = None


class Retrying(Scheduled, frozen=True, tag="Retrying"):
    """It failed, and will run again."""

    run_count: int = 1
    """Attempts that were made already."""


class Paused(Scheduled, frozen=True, tag="Paused"):
    """It waits for a person or a signal."""

    waiting_for: tuple[str, ...] = ()


class Queued(Pending, frozen=True, tag="Queued"):
    """It could run, but a limit is reached."""

    start_time: datetime | None = None


class Running(State, frozen=True, tag="Running"):
    """It is being executed."""

    cached_inputs: CachedInputs = {}


class Finished(State, frozen=True, tag="Finished"):
    """It has finished. Use the classes below it."""


class Success(Finished, frozen=True, tag="Success"):
    """It finished well."""

    cached_inputs: CachedInputs = {}


class Cached(Success, frozen=True, tag="Cached"):
    """A result was reused that was made before."""

    source: tuple[str, int] | None = None
    """(stream, version) of the record that holds the original."""
    expires_at: datetime | None = None
    """The moment until which it may be reused again; None for ever."""


class Mapped(Success, frozen=True, tag="Mapped"):
    """Children were made, one for each element. Their states are dumped next to it, not in it.

    The predicates are computed from the children: a map has finished when all have, it has failed if it has finished and
    any child failed, and it is cached or skipped if all are. So `is_successful()` can be False although the class is
    below `Success`.
    """

    n_map_states: int = 0
    n_finished: int = 0
    n_failed: int = 0
    n_skipped: int = 0
    n_cached: int = 0
    n_cancelled: int = 0

    @property
    def map_states(self) -> Sequence[State | None]:
        """The states of the children; after loading, as many None."""
        children: Sequence[State | None] = self.__dict__.get("children", (None,) * self.n_map_states)
        return children

    @property
    def result(self) -> Any:
        """The values of the children, in order; `NoResult` for a child that has none or is not loaded."""
        return [NoResult if state is None else state.result for state in self.map_states]

    @classmethod
    def of(cls, children: Sequence[State]) -> Mapped:
        """Return the state of a mapped task with these children; the message counts them.

        ```python
        from eventflow.states import Failed, Mapped, Success

        print(Mapped.of([Success(), Failed()]))
        ```
        ```text
        <Mapped: 2 children: 1 failed>
        ```
        """
        width, finished = len(children), sum(child.is_finished() for child in children)
        failed = sum(child.is_failed() for child in children)
        skipped = sum(child.is_skipped() for child in children)
        cached = sum(child.is_cached() for child in children)
        cancelled = sum(child.is_cancelled() for child in children)
        counts = {
            "not finished": width - finished,
            "failed": failed,
            "skipped": skipped,
            "cached": cached,
            "cancelled": cancelled,
        }
        message = f"{width} children"
        if any(counts.values()):
            message += ": " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        state = cls(
            message=message,
            n_map_states=width,
            n_finished=finished,
            n_failed=failed,
            n_skipped=skipped,
            n_cached=cached,
            n_cancelled=cancelled,
        )
        state.__dict__["children"] = children
        return state

    def is_running(self) -> bool:
        """Return whether some children have not finished."""
        return self.n_finished < self.n_map_states

    def is_finished(self) -> bool:
        """Return whether all children have finished."""
        return self.n_finished == self.n_map_states

    def is_successful(self) -> bool:
        """Return whether all children have finished, and none failed or was cancelled."""
        return self.is_finished() and not (self.n_failed or self.n_cancelled)

    def is_failed(self) -> bool:
        """Return whether all children have finished, and some failed."""
        return self.is_finished() and self.n_failed > 0

    def is_cancelled(self) -> bool:
        """Return whether all children have finished, and some were cancelled while none failed."""
        return self.is_finished() and self.n_cancelled > 0 and not self.n_failed

    def is_cached(self) -> bool:
        """Return whether there are children, and the results of all were reused."""
        return 0 < self.n_map_states == self.n_cached

    def is_skipped(self) -> bool:
        """Return whether there are children, and all were skipped."""
        return 0 < self.n_map_states == self.n_skipped


class Skipped(Success, frozen=True, tag="Skipped"):
    """There was nothing to do."""


class Failed(Finished, frozen=True, tag="Failed"):
    """Over, and not well."""

    failure: Failure | None = None
    task: str = ""
    """Name of the task that failed, for its `TaskError`."""
    cached_inputs: CachedInputs = {}

    @property
    def result(self) -> Any:
        """The `TaskError`, with the live exception as its cause if this process has it.

        For a failed run the states of its tasks.
        """
        return super().result if self.failure is None else self.error()

    def error(self) -> TaskError:
        """Return the failure as an exception. A failed run has none of its own.

        ```python
        from eventflow.events import Failure
        from eventflow.states import Failed

        print(Failed(task="load", failure=Failure("ConnectionError", "no database")).error())
        ```
        ```text
        task 'load' failed: ConnectionError: no database
        ```
        """
        assert self.failure is not None, "a failed run has no failure of its own, its tasks have"
        error = TaskError(self.task, self.failure)
        error.__cause__ = live = self.__dict__.get("live")
        if self.failure.traceback and (live is None or live.__traceback__ is None):
            error.add_note(f"It was raised here:\n{self.failure.traceback}")
        return error


class TimedOut(Failed, frozen=True, tag="TimedOut"):
    """The attempt took longer than `timeout`."""


class TriggerFailed(Failed, frozen=True, tag="TriggerFailed"):
    """The upstreams did not end as the trigger asks; the body did not run."""


class Crashed(Failed, frozen=True, tag="Crashed"):
    """The process died during several attempts in a row."""


class Cancelled(Finished, frozen=True, tag="Cancelled"):
    """It was ended by request."""


AnyState: TypeAlias = (
    Pending
    | Scheduled
    | Retrying
    | Paused
    | Queued
    | Running
    | Finished
    | Success
    | Cached
    | Mapped
    | Skipped
    | Failed
    | TimedOut
    | TriggerFailed
    | Crashed
    | Cancelled
)
"""The closed union, for decoding and for exhaustive `match`."""


def dec_hook(_kind: Any, value: Any) -> Any:
    """Return the Result of a payload, serialized: the hook for msgspec's decoders of states."""
    if value is None:
        return NoResult
    return Result(msgspec.convert(value, Payload), serialized=True)


_json_encoder: Final = msgspec.json.Encoder(enc_hook=enc_hook)
_msgpack_encoder: Final = msgspec.msgpack.Encoder(enc_hook=enc_hook)
_json_decoder: Final[msgspec.json.Decoder[AnyState]] = msgspec.json.Decoder(AnyState, dec_hook=dec_hook)
_msgpack_decoder: Final[msgspec.msgpack.Decoder[AnyState]] = msgspec.msgpack.Decoder(
    AnyState, dec_hook=dec_hook
)


def encode_json(state: State) -> bytes:
    """Return a state as JSON. Raises `SerializationError` if a value in it cannot be serialized.

    ```python
    from eventflow.states import Running, encode_json

    print(encode_json(Running(message="attempt 2")).decode())
    ```
    ```text
    {"type":"Running","cached_inputs":{},"message":"attempt 2","_result":null}
    ```
    """
    return _json_encoder.encode(state)


def encode_msgpack(state: State) -> bytes:
    """Return a state as MessagePack. Raises `SerializationError` if a value in it cannot be serialized.

    ```python
    from eventflow.states import Skipped, encode_msgpack

    print(len(encode_msgpack(Skipped(message="weekend"))), "bytes")
    ```
    ```text
    54 bytes
    ```
    """
    return _msgpack_encoder.encode(state)


def decode_json(data: bytes | str) -> State:
    """Return the state that was dumped as JSON, with its results serialized. Raises `msgspec.DecodeError`.

    ```python
    from eventflow import Result
    from eventflow.states import Success, decode_json, encode_json

    state = decode_json(encode_json(Success(_result=Result(42))))
    print(state, state._result.serialized, state.result)
    ```
    ```text
    <Success> True 42
    ```
    """
    return _json_decoder.decode(data)


def decode_msgpack(data: bytes) -> State:
    """Return the state that was dumped as MessagePack, with its results serialized. Raises `msgspec.DecodeError`.

    ```python
    from eventflow.states import Skipped, decode_msgpack, encode_msgpack

    print(decode_msgpack(encode_msgpack(Skipped(message="weekend"))))
    ```
    ```text
    <Skipped: weekend>
    ```
    """
    return _msgpack_decoder.decode(data)

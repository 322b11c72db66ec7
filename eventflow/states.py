"""What people see of a task or a run: PIN-4's tree of states, frozen and closed.

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

Every state has a `message`, a `_result` (a `Result`, or `NoResult`), and the property `result`, the
Python value.  Those that may run again carry `cached_inputs`.  States are built on access from the
compact state that `evolve` keeps; nobody edits them.

They dump to JSON and MessagePack as a tagged union (`type` is the class name) and load back.  Dumping
serializes every `Result` by itself; loading opens none.  Unknown fields are ignored, an unknown or
missing `type` is a `msgspec.ValidationError`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from eventflow.events import Failure
from eventflow.result import Inline, NoResult, NoResultType, Payload, Result, enc_hook
from eventflow.serializers import digest_of, register_codec

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
    "StatesSerializer",
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
    """A task failed: what its consumers are given in place of a value, and what `.value()` raises.

    Rebuilt from the recorded failure, so it is the same live and after a crash. In the process in which
    the body raised, `__cause__` is the live exception.
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
        """What `_result` may hold, as the one type that msgspec's decoder hook can ask for."""

    AnyResult.register(Result)
    AnyResult.register(NoResultType)


class State(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True, tag_field="type"):
    """What is known of a task or a run. Use its children.

    Two states are equal when they are of one class and all but the message is equal; the hash is the
    object's own, so a state with an unhashable result can stand in a set.
    """

    message: str = ""
    _result: AnyResult = NoResult

    @property
    def result(self) -> Any:
        """The Python value, opened now if it is serialized; `NoResult` when there is none.

        Raises `ResultNotLoaded` when the bytes are not at hand.
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

    __ne__ = object.__ne__  # what is not equal; the Struct's own compares identity

    def __hash__(self) -> int:
        return id(self) >> 4

    def __repr__(self) -> str:
        """The class and the message; what else there is, its fields say."""
        return f"<{type(self).__name__}: {self.message}>" if self.message else f"<{type(self).__name__}>"

    def is_pending(self) -> bool:
        """Not begun, or to be begun again."""
        return isinstance(self, Pending)

    def is_scheduled(self) -> bool:
        """Waiting for a moment."""
        return isinstance(self, Scheduled)

    def is_retrying(self) -> bool:
        """Failed, and waiting for another attempt."""
        return isinstance(self, Retrying)

    def is_paused(self) -> bool:
        """Waiting for someone."""
        return isinstance(self, Paused)

    def is_queued(self) -> bool:
        """Waiting for room."""
        return isinstance(self, Queued)

    def is_running(self) -> bool:
        """Executing."""
        return isinstance(self, Running)

    def is_finished(self) -> bool:
        """Over, in whichever way."""
        return isinstance(self, Finished)

    def is_successful(self) -> bool:
        """Over and well; also cached and skipped, and mapped where all children are."""
        return isinstance(self, Success)

    def is_cached(self) -> bool:
        """A result from elsewhere was taken."""
        return isinstance(self, Cached)

    def is_mapped(self) -> bool:
        """Children were made; says nothing of how they fared."""
        return isinstance(self, Mapped)

    def is_skipped(self) -> bool:
        """There was nothing to do."""
        return isinstance(self, Skipped)

    def is_failed(self) -> bool:
        """Over, and not well."""
        return isinstance(self, Failed)

    def is_cancelled(self) -> bool:
        """Ended by request; neither successful nor failed."""
        return isinstance(self, Cancelled)


CachedInputs: TypeAlias = Mapping[str, Result]


class Pending(State, frozen=True, tag="Pending"):
    """Waiting for its turn."""

    cached_inputs: CachedInputs = {}
    """Inputs of the last attempt, by name; an input made of several values has one entry for each."""


class Scheduled(Pending, frozen=True, tag="Scheduled"):
    """To be run at a moment."""

    start_time: datetime | None = None


class Retrying(Scheduled, frozen=True, tag="Retrying"):
    """Failed, and to be run again."""

    run_count: int = 1
    """Attempts already made."""


class Paused(Scheduled, frozen=True, tag="Paused"):
    """Waiting for a person or a signal."""

    waiting_for: tuple[str, ...] = ()


class Queued(Pending, frozen=True, tag="Queued"):
    """Could run, but a limit is reached."""

    start_time: datetime | None = None


class Running(State, frozen=True, tag="Running"):
    """Executing now."""

    cached_inputs: CachedInputs = {}


class Finished(State, frozen=True, tag="Finished"):
    """Over. Use its children."""


class Success(Finished, frozen=True, tag="Success"):
    """Over and well."""

    cached_inputs: CachedInputs = {}


class Cached(Success, frozen=True, tag="Cached"):
    """The result was taken from where it was made before."""

    source: tuple[str, int] | None = None
    """(stream, version) of the record that holds the original."""
    expires_at: datetime | None = None
    """Until when it may be taken again; None for ever."""


class Mapped(Success, frozen=True, tag="Mapped"):
    """Children were made, one for each element. Their states travel beside it, not in it.

    The predicates answer for the children: a map has finished when all have, it has failed when it has finished
    and any child failed, and it is cached or skipped when all are. So `is_successful()` can be False although the
    class is below `Success`.
    """

    n_map_states: int = 0
    n_finished: int = 0
    n_failed: int = 0
    n_skipped: int = 0
    n_cached: int = 0
    n_cancelled: int = 0

    @property
    def map_states(self) -> Sequence[State | None]:
        """The children's states; after loading, as many None."""
        found: Sequence[State | None] = self.__dict__.get("children", (None,) * self.n_map_states)
        return found

    @property
    def result(self) -> Any:
        """The children's values, in order; `NoResult` for what is not known."""
        return [NoResult if state is None else state.result for state in self.map_states]

    @classmethod
    def of(cls, children: Sequence[State]) -> Mapped:
        """The state of a mapped task, with its children at hand; the message counts them."""
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
        listed = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        state = cls(
            message=f"{width} children: {listed}" if listed else f"{width} children",
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
        """Some children have not finished."""
        return self.n_finished < self.n_map_states

    def is_finished(self) -> bool:
        """All children have finished."""
        return self.n_finished == self.n_map_states

    def is_successful(self) -> bool:
        """All children have finished, and none failed or was cancelled."""
        return self.is_finished() and not (self.n_failed or self.n_cancelled)

    def is_failed(self) -> bool:
        """All children have finished, and some failed."""
        return self.is_finished() and self.n_failed > 0

    def is_cancelled(self) -> bool:
        """All children have finished, and some were cancelled while none failed."""
        return self.is_finished() and self.n_cancelled > 0 and not self.n_failed

    def is_cached(self) -> bool:
        """There are children, and the results of all were taken from the cache."""
        return 0 < self.n_map_states == self.n_cached

    def is_skipped(self) -> bool:
        """There are children, and all were skipped."""
        return 0 < self.n_map_states == self.n_skipped


class Skipped(Success, frozen=True, tag="Skipped"):
    """There was nothing to do."""


class Failed(Finished, frozen=True, tag="Failed"):
    """Over, and not well."""

    failure: Failure | None = None
    task: str = ""
    """Name of the task that failed, for the error."""
    cached_inputs: CachedInputs = {}

    @property
    def result(self) -> Any:
        """The `TaskError`, with the live exception as its cause where it is at hand.

        A failed run gives what it has: the states of its tasks.
        """
        return super().result if self.failure is None else self.error()

    def error(self) -> TaskError:
        """The failure as an exception; for a state that has one."""
        assert self.failure is not None, "a failed run has no failure of its own, its tasks have"
        error = TaskError(self.task, self.failure)
        error.__cause__ = live = self.__dict__.get("live")
        if self.failure.traceback and (live is None or live.__traceback__ is None):
            error.add_note(f"It was raised here:\n{self.failure.traceback}")
        return error


class TimedOut(Failed, frozen=True, tag="TimedOut"):
    """Its attempt took longer than `timeout`."""


class TriggerFailed(Failed, frozen=True, tag="TriggerFailed"):
    """Its upstreams did not end as its trigger asks; the body did not run."""


class Crashed(Failed, frozen=True, tag="Crashed"):
    """Its process died during several attempts in a row."""


class Cancelled(Finished, frozen=True, tag="Cancelled"):
    """Ended by request."""


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


def _dec_hook(_kind: Any, value: Any) -> Any:
    """Make the view of a payload; opens nothing."""
    if value is None:
        return NoResult
    return Result(msgspec.convert(value, Payload), serialized=True)


_json_encoder: Final = msgspec.json.Encoder(enc_hook=enc_hook)
_msgpack_encoder: Final = msgspec.msgpack.Encoder(enc_hook=enc_hook)
_json_decoder: Final[msgspec.json.Decoder[AnyState]] = msgspec.json.Decoder(AnyState, dec_hook=_dec_hook)
_msgpack_decoder: Final[msgspec.msgpack.Decoder[AnyState]] = msgspec.msgpack.Decoder(
    AnyState, dec_hook=_dec_hook
)


_mapping_decoder: Final[msgspec.msgpack.Decoder[dict[str, AnyState]]] = msgspec.msgpack.Decoder(
    dict[str, AnyState], dec_hook=_dec_hook
)


def encode_json(state: State) -> bytes:
    """Dump a state as JSON; raises `SerializationError` when a value in it cannot be kept."""
    return _json_encoder.encode(state)


def encode_msgpack(state: State) -> bytes:
    """Dump a state as MessagePack; raises `SerializationError` when a value in it cannot be kept."""
    return _msgpack_encoder.encode(state)


def decode_json(data: bytes | str) -> State:
    """Load a state from JSON; its results stay serialized. Raises `msgspec.DecodeError`."""
    return _json_decoder.decode(data)


def decode_msgpack(data: bytes) -> State:
    """Load a state from MessagePack; its results stay serialized. Raises `msgspec.DecodeError`."""
    return _msgpack_decoder.decode(data)


class StatesSerializer:
    """Keeps a mapping of names to states, which is what a run's own state has for its result.

    Loaded, it is a plain dict, in which the children of a mapped task stand beside it, as `enrich[0]`.
    """

    codec: Final = "states"

    def serialize(self, value: Mapping[str, State]) -> Inline:
        """Dump every state; raises `SerializationError`."""
        found: dict[str, State] = {}
        for name in value:
            _add(found, name, value[name])
        data = _msgpack_encoder.encode(found)
        return Inline(self.codec, data, digest_of(data))

    def deserialize(self, payload: Inline) -> Mapping[str, State]:
        """Load the states; their own results stay serialized."""
        return _mapping_decoder.decode(payload.data)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(self.codec)


def _add(found: dict[str, State], name: str, state: State) -> None:
    found[name] = state
    if isinstance(state, Mapped):
        for nth, child in enumerate(state.map_states):
            if child is not None:
                _add(found, f"{name}[{nth}]", child)


class _StatesCodec:
    """Opens what `StatesSerializer` wrote, for whoever loads a run's state without knowing that it is one."""

    name: Final = StatesSerializer.codec

    def encode(self, _value: object, _declared: Any) -> None:
        """Take no value: only a run's own result is kept like this."""

    def decode(self, data: bytes, _declared: Any) -> Mapping[str, State]:
        """Load the states."""
        return _mapping_decoder.decode(data)


register_codec(_StatesCodec())

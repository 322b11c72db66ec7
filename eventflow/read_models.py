"""Read models: projections whose rows are kept in the log's own database and read one by one.

A `RowProjection` is a projection whose state is a mapping from names to rows, and which can name beforehand the rows
that a record concerns (`needs`).  It can be replayed in memory like any other projection, or kept: `ReadModel.of`
brings the kept rows up to the log's head, one part at a time, with rows and checkpoint in one transaction.  Processes
that do this at the same time take turns: if one finds that the checkpoint has moved, it reads the rows again.
Damaged rows are folded again from the events.

If the log keeps nothing, because it was opened read-only or its disk is full, the kept rows are still read, and the
rows that have changed since are folded and held in memory.

A read model caches a fold, as a snapshot does.  It may be deleted at any time, and it is ignored if other code made
it.  Folding the events again gives equal rows, byte by byte.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from logging import getLogger
from typing import Final, Generic, Protocol, TypeVar, get_args

import msgspec

from eventflow.events import Record
from eventflow.ports import Checkpoint, EventLog, RowsFound
from eventflow.projections import code_of_fold, state_type
from eventflow.records import LogDamaged

__all__ = ["ReadModel", "RowProjection"]

_logger: Final = getLogger("eventflow.read_models")

R = TypeVar("R")

RECORDS_PER_COMMIT: Final = 4_096
"""Records that are folded between two commits."""
RECORDS_PER_LOAD: Final = 512
"""Records whose rows are loaded together."""
ROWS_MAX: Final = 50_000
"""Rows in memory; with more than that, the rows that the log has are dropped from memory."""


class RowProjection(Protocol[R]):
    """How records become rows of type `R`; `initial` is annotated with `dict[str, R]`."""

    @property
    def name(self) -> str:
        """Of the read model."""
        ...

    @property
    def version(self) -> int:
        """Must be raised when the meaning of the rows changes."""
        ...

    def initial(self) -> dict[str, R]:
        """No rows."""
        ...

    def needs(self, rows: Mapping[str, R], record: Record, /) -> Iterable[str]:
        """Name the rows that `apply` will use, as far as `rows` allows; called again once these are loaded."""
        ...

    def apply(self, state: MutableMapping[str, R], record: Record, /) -> MutableMapping[str, R]:
        """Fold one record: use only the rows that `needs` names, and assign each row that changes."""
        ...


class ReadModel(Generic[R]):
    """The rows of a projection, up to date with the record at `position` or a later one."""

    def __init__(self, log: EventLog, projection: RowProjection[R]) -> None:
        """Use `ReadModel.of`, which brings the rows up to date."""
        self._log = log
        self._projection = projection
        self._name = projection.name
        self._unkept: Mapping[str, R | None] = {}
        """Rows that have changed since `_base` and that the log does not keep; None for a removed row."""
        self._base: Checkpoint | None = None
        self._ignores_kept = False
        """Whether other code made the kept rows, so that `_unkept` has all rows."""
        self._decode = _decoder(projection)
        self.position = 0
        """Of the last record that is folded."""

    @classmethod
    async def of(cls, log: EventLog, projection: RowProjection[R]) -> ReadModel[R]:
        """Bring a projection's rows up to the log's head, and give access to them.

        ```python
        from eventflow import MemoryLog, Runs
        from eventflow.read_models import ReadModel

        runs = await ReadModel.of(MemoryLog(), Runs())
        print(await runs.under("run/"))
        ```

        ```text
        {}
        ```

        A read-only log is not written to: the missing part is folded in memory. If it is cancelled, it stops between
        two parts, and the parts that were kept so far stay kept.
        """
        model = cls(log, projection)
        await model._catch_up(await log.head())
        return model

    async def get(self, *names: str) -> dict[str, R]:
        """Read the rows with these names; names without a row are left out."""
        rows = await self._read(lambda: self._log.rows(self._name, names), lambda name: name in names)
        return {name: rows[name] for name in names if name in rows}

    async def under(self, prefix: str = "") -> dict[str, R]:
        """Read the rows whose names begin with a prefix, in the order of their names."""
        rows = await self._read(
            lambda: self._log.rows(self._name, prefix=prefix), lambda name: name.startswith(prefix)
        )
        if self._unkept:
            rows = dict(sorted(rows.items()))
        return rows

    async def _catch_up(self, head: int) -> None:
        trusting = keeps = True
        while True:
            attempt = _CatchUp(self._log, self._projection, self._decode, trusting=trusting, keeps=keeps)
            try:
                self.position = await attempt.run(head)
            except _CheckpointMoved:
                keeps = trusting
                continue
            except LogDamaged:  # the rows are damaged and must be folded again, or the events are
                if not trusting:
                    raise
                trusting = False
                continue
            self._unkept, self._base, self._ignores_kept = attempt.unkept
            return

    async def _read(
        self, ask: Callable[[], Awaitable[RowsFound]], is_wanted: Callable[[str], bool]
    ) -> dict[str, R]:
        """Read the kept rows, with the unkept ones over them."""
        kept: Mapping[str, bytes] = {}
        while not self._ignores_kept:
            answer = await ask()
            if not self._unkept or answer.checkpoint == self._base:
                kept = answer.rows
                break
            # Another process has kept these rows meanwhile, or newer ones.
            await self._catch_up(self.position)
        rows = {name: self._decode(data) for name, data in kept.items()}
        for name, row in self._unkept.items():
            if not is_wanted(name):
                continue
            if row is None:
                rows.pop(name, None)
            else:
                rows[name] = row
        return rows


def _decoder(projection: RowProjection[R]) -> Callable[[bytes], R]:
    """Make the function that decodes rows; bytes that are no row are damage."""
    _, row_type = get_args(state_type(projection))
    decode: Callable[[bytes], R] = msgspec.msgpack.Decoder(row_type).decode

    def decode_row(data: bytes) -> R:
        try:
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LogDamaged(
                f"a row of the read model {projection.name!r} does not decode: {error}"
            ) from error

    return decode_row


class _LoadedRows(MutableMapping[str, R]):
    """The rows in memory, and the names of those that have changed."""

    def __init__(self) -> None:
        self.by_name: dict[str, R | None] = {}
        """None for a row that does not exist."""
        self.changed: set[str] = set()

    def __getitem__(self, name: str) -> R:
        row = self.by_name.get(name)
        if row is None:
            raise KeyError(name)
        return row

    def __setitem__(self, name: str, row: R) -> None:
        self.by_name[name] = row
        self.changed.add(name)

    def __delitem__(self, name: str) -> None:
        self[name]
        self.by_name[name] = None
        self.changed.add(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, row in self.by_name.items() if row is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _CheckpointMoved(Exception):
    """Another process has moved the checkpoint meanwhile."""


class _CatchUp(Generic[R]):
    """One attempt to bring the rows up to a position."""

    def __init__(
        self,
        log: EventLog,
        projection: RowProjection[R],
        decode: Callable[[bytes], R],
        *,
        trusting: bool,
        keeps: bool,
    ) -> None:
        """Continue from the kept rows if `trusting`, or else from nothing; write to the log if `keeps`."""
        self._log = log
        self._trusting = trusting
        self._projection = projection
        self._decode = decode
        self._code = code_of_fold(projection)
        self._rows = _LoadedRows[R]()
        self._checkpoint: Checkpoint | None = None
        self._is_new = False
        """Nothing is kept yet, so a row that is not in memory does not exist."""
        self._keeps = keeps
        """Whether the log has accepted all writes so far."""

    @property
    def unkept(self) -> tuple[Mapping[str, R | None], Checkpoint | None, bool]:
        """The rows that the log did not accept, their base checkpoint, and whether the kept rows are to be ignored."""
        if self._keeps:
            return {}, None, False
        rows, checkpoint = self._rows, self._checkpoint
        changed = {name: rows.by_name[name] for name in rows.changed}
        ignores_kept = checkpoint is None or checkpoint.code != self._code
        return changed, checkpoint, ignores_kept

    async def run(self, head: int) -> int:
        """Fold at least up to `head`, and return the position reached; raises `_CheckpointMoved`."""
        if self._trusting:
            kept = await self._log.rows(self._projection.name, ())
            self._checkpoint = kept.checkpoint
        position = 0
        if self._checkpoint is not None and self._checkpoint.code == self._code:
            position = self._checkpoint.position
        else:
            self._is_new = True
        while position < head:
            part = await self._read_part(position, head)
            for first in range(0, len(part), RECORDS_PER_LOAD):
                await self._apply(part[first : first + RECORDS_PER_LOAD])
            is_last = len(part) < RECORDS_PER_COMMIT  # though the head may be far behind its last record
            position = head if is_last else part[-1].position
            await self._keep(position)
        return position

    async def _read_part(self, after: int, until: int) -> list[Record]:
        part: list[Record] = []
        async for record in self._log.read(after=after, until=until):
            part.append(record)
            if len(part) == RECORDS_PER_COMMIT:
                break
        return part

    async def _keep(self, position: int) -> None:
        """Write the changed rows and the checkpoint, unless the log has refused a write."""
        if not self._keeps:
            return
        rows, checkpoint = self._rows, Checkpoint(self._code, position)
        data: dict[str, bytes | None] = {}
        for name in sorted(rows.changed):
            row = rows.by_name[name]
            data[name] = None if row is None else msgspec.msgpack.encode(row)
        try:
            is_kept = await self._log.keep_rows(self._projection.name, self._checkpoint, checkpoint, data)
        except Exception:
            _logger.debug("read model %r is not kept", self._projection.name, exc_info=True)
            self._keeps = False
            return
        if not is_kept:
            raise _CheckpointMoved
        self._checkpoint = checkpoint
        rows.changed.clear()
        if len(rows.by_name) > ROWS_MAX:
            rows.by_name.clear()
            self._is_new = False

    async def _apply(self, page: Sequence[Record]) -> None:
        rows, apply = self._rows, self._projection.apply
        while missing := self._missing(page):  # a loaded row may name more rows
            await self._load(missing)
        for record in page:
            while missing := self._missing([record]):
                await self._load(missing)
            apply(rows, record)

    def _missing(self, page: Sequence[Record]) -> list[str]:
        """Return the names of rows that the records need and that are not in memory."""
        if self._is_new:
            return []
        rows = self._rows
        names: list[str] = []
        for record in page:
            names += self._projection.needs(rows, record)
        return [name for name in names if name not in rows.by_name]

    async def _load(self, names: Iterable[str]) -> None:
        """Load rows into memory; they must belong to the checkpoint."""
        answer = await self._log.rows(self._projection.name, tuple(dict.fromkeys(names)))
        if answer.checkpoint != self._checkpoint:
            raise _CheckpointMoved
        for name in names:
            self._rows.by_name[name] = None
        for name, data in answer.rows.items():
            self._rows.by_name[name] = self._decode(data)

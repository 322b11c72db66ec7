"""Projections that grow with the log: rows in the log's own database, read one by one.

A table projection is a projection whose state is a mapping from names to rows, and which can say beforehand what
rows a record is about (`needs`).  So it can be replayed in memory like any other, or kept: `Table.of` brings what
the log keeps up to its head, a part at a time, rows and checkpoint in one transaction.  Processes that do so at
the same time take turns; whoever finds the checkpoint moved reads again, and whoever finds rows that are damaged
makes them again.

Where the log keeps nothing, because it is only looked at or its disk is full, what is kept already is read all the
same, and the rows that have changed since are folded and held in memory.

What is kept is an opinion about the log, as a snapshot is: it may be deleted at any time, it counts as deleted
when the projection's code has changed, and what is then made again is equal byte by byte.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import aclosing
from logging import getLogger
from typing import Final, Generic, Protocol, TypeVar, get_args

import msgspec

from eventflow.events import LogDamaged, Record
from eventflow.ports import Checkpoint, EventLog, RowsFound
from eventflow.projections import code_of_fold, state_type

__all__ = ["Table", "TableProjection"]

_logger: Final = getLogger("eventflow.read_models")

R = TypeVar("R")

PART: Final = 4_096
"""Records that are folded between two commits."""
PAGE: Final = 512
"""Records whose rows are asked for at once."""
ROWS_MAX: Final = 50_000
"""Rows in memory, after which those that are kept are forgotten here."""


class TableProjection(Protocol[R]):
    """How records become rows of type `R`; `initial` is annotated with `dict[str, R]`."""

    @property
    def name(self) -> str:
        """Of the table."""
        ...

    @property
    def version(self) -> int:
        """To be raised when rows come to mean something else."""
        ...

    def initial(self) -> dict[str, R]:
        """No rows."""
        ...

    def needs(self, rows: Mapping[str, R], record: Record, /) -> Iterable[str]:
        """Names of the rows that `apply` will look at, as far as `rows` tells; asked again with more of them."""
        ...

    def apply(self, state: MutableMapping[str, R], record: Record, /) -> MutableMapping[str, R]:
        """Take one record in: look at no other row than those named, and assign what is changed."""
        ...


class Table(Generic[R]):
    """The rows of a projection as they stood at `position`; later calls read what is kept by then."""

    def __init__(self, log: EventLog, projection: TableProjection[R]) -> None:
        """For `of` only."""
        self._log = log
        self._projection = projection
        self._name = projection.name
        self._beside: Mapping[str, R | None] = {}
        """Rows that have changed since `_under` and that the log does not keep; None for one that is no more."""
        self._under: Checkpoint | None = None
        """What is kept counts only beside rows of this very checkpoint; of no consequence without such rows."""
        self._is_whole = False
        """Whether nothing that is kept counts."""
        self._decode = _decoder(projection)
        self.position = 0
        """Of the last record that is in it."""

    @classmethod
    async def of(cls, log: EventLog, projection: TableProjection[R]) -> Table[R]:
        """The table, brought up to the log's head.

        Where the log cannot be written to, what is missing is folded in memory. Cancelled, it stops between two
        parts; what was kept so far is not lost.
        """
        table = cls(log, projection)
        await table._catch_up(await log.head())
        return table

    async def _catch_up(self, head: int) -> None:
        trusting = keeps = True
        while True:
            work = _CatchUp(self._log, self._projection, self._decode, trusting=trusting, keeps=keeps)
            try:
                self.position = await work.run(head)
            except _Moved:
                keeps = trusting
                continue
            except LogDamaged:  # of the rows, which are to be made again, or of the events
                if not trusting:
                    raise
                trusting = False
                continue
            self._beside, self._under, self._is_whole = work.unkept
            return

    async def get(self, *names: str) -> dict[str, R]:
        """The rows of those names that there are."""
        rows = await self._found(lambda: self._log.rows(self._name, names), lambda name: name in names)
        return {name: rows[name] for name in names if name in rows}

    async def under(self, prefix: str = "") -> dict[str, R]:
        """The rows whose names begin so, in the order of their names."""
        rows = await self._found(
            lambda: self._log.rows(self._name, prefix=prefix), lambda name: name.startswith(prefix)
        )
        return dict(sorted(rows.items())) if self._beside else rows

    async def _found(
        self, ask: Callable[[], Awaitable[RowsFound]], is_meant: Callable[[str], bool]
    ) -> dict[str, R]:
        """What is kept, with what is not kept over it."""
        kept: Mapping[str, bytes] = {}
        while not self._is_whole:
            found = await ask()
            if not self._beside or found.checkpoint == self._under:
                kept = found.rows
                break
            await self._catch_up(self.position)  # meanwhile somebody has kept what we had beside it, or more
        rows = {name: self._decode(data) for name, data in kept.items()}
        for name, row in self._beside.items():
            if is_meant(name):
                if row is None:
                    rows.pop(name, None)
                else:
                    rows[name] = row
        return rows


def _decoder(projection: TableProjection[R]) -> Callable[[bytes], R]:
    """Opens rows; one that is none is damage."""
    decode: Callable[[bytes], R] = msgspec.msgpack.Decoder(get_args(state_type(projection))[1]).decode

    def open_row(data: bytes) -> R:
        try:
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LogDamaged(f"a row of the table {projection.name!r} is none: {error}") from error

    return open_row


class _Rows(MutableMapping[str, R]):
    """The rows at hand, with what has to be written of them."""

    def __init__(self) -> None:
        self.known: dict[str, R | None] = {}
        self.changed: set[str] = set()

    def __getitem__(self, name: str) -> R:
        found = self.known.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __setitem__(self, name: str, row: R) -> None:
        self.known[name] = row
        self.changed.add(name)

    def __delitem__(self, name: str) -> None:
        self[name]
        self.known[name] = None
        self.changed.add(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, row in self.known.items() if row is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Moved(Exception):
    """Another process has moved the checkpoint meanwhile."""


class _CatchUp(Generic[R]):
    """One attempt at bringing a table up to a position."""

    def __init__(
        self,
        log: EventLog,
        projection: TableProjection[R],
        decode: Callable[[bytes], R],
        *,
        trusting: bool,
        keeps: bool,
    ) -> None:
        """Go on from what is kept, or begin from nothing if that is not to be trusted."""
        self._log = log
        self._trusting = trusting
        self._projection = projection
        self._decode = decode
        self._code = code_of_fold(projection)
        self._rows = _Rows[R]()
        self._at: Checkpoint | None = None
        self._is_new = False
        """Nothing is kept yet, so a row that is not at hand does not exist."""
        self._keeps = keeps
        """Whether the log has taken everything so far."""

    @property
    def unkept(self) -> tuple[Mapping[str, R | None], Checkpoint | None, bool]:
        """The rows that the log did not take, under what checkpoint, and whether nothing that is kept counts."""
        if self._keeps:
            return {}, None, False
        rows, is_whole = self._rows, self._at is None or self._at.code != self._code
        return {name: rows.known[name] for name in rows.changed}, self._at, is_whole

    async def run(self, head: int) -> int:
        """Fold at least up to `head`, and give how far; raises `_Moved`."""
        found = (await self._log.rows(self._projection.name, ())).checkpoint if self._trusting else None
        self._at = found
        self._is_new = found is None or found.code != self._code
        start = 0 if found is None or self._is_new else found.position
        while start < head:
            part: list[Record] = []
            async with aclosing(self._read(start, head)) as records:
                async for record in records:
                    part.append(record)
                    if len(part) == PART:
                        break
            for first in range(0, len(part), PAGE):
                await self._apply(part[first : first + PAGE])
            start = part[-1].position if len(part) == PART else head  # positions may be far apart
            await self._keep(start)
        return start

    async def _read(self, after: int, until: int) -> AsyncGenerator[Record, None]:
        async for record in self._log.read(after=after, until=until):
            yield record

    async def _keep(self, position: int) -> None:
        """Write what changed, with the checkpoint, unless the log takes nothing."""
        if not self._keeps:
            return
        rows, now = self._rows, Checkpoint(self._code, position)
        encode = msgspec.msgpack.encode
        data = {
            name: None if (row := rows.known[name]) is None else encode(row) for name in sorted(rows.changed)
        }
        try:
            stored = await self._log.keep_rows(self._projection.name, self._at, now, data)
        except Exception:
            _logger.debug("table %r is not kept", self._projection.name, exc_info=True)
            self._keeps = False
            return
        if not stored:
            raise _Moved
        self._at = now
        rows.changed.clear()
        if len(rows.known) > ROWS_MAX:
            rows.known.clear()
            self._is_new = False

    async def _apply(self, page: Sequence[Record]) -> None:
        rows, apply = self._rows, self._projection.apply
        while missing := self._missing(page):  # more rows may tell of more that are needed
            await self._load(missing)
        for record in page:
            while missing := self._missing([record]):
                await self._load(missing)
            apply(rows, record)

    def _missing(self, page: Sequence[Record]) -> list[str]:
        """Names of rows that the records need and that are not at hand."""
        if self._is_new:
            return []
        needs, rows = self._projection.needs, self._rows
        return [name for record in page for name in needs(rows, record) if name not in rows.known]

    async def _load(self, names: Iterable[str]) -> None:
        """Have these rows at hand; they must be of the checkpoint."""
        found = await self._log.rows(self._projection.name, tuple(dict.fromkeys(names)))
        if found.checkpoint != self._at:
            raise _Moved
        for name in names:
            data = found.rows.get(name)
            self._rows.known[name] = None if data is None else self._decode(data)

-- The birth of a log file, format 1: all of it or nothing. `files.prepare` adds the rows of `info` and commits.
--
-- A file with other tables, indices or triggers is refused, so that no code but this runs in it (`schema`). Later
-- versions may add plain tables and indices, if their names begin with `x_`; readers and writers pass over those.
-- Each `crc` is a checksum of its row (`checksums`). Names of streams and kinds are stored once; an event has their
-- numbers. `body` is the whole envelope (`eventflow.events.encode`), `crc` its checksum; the other columns are for
-- finding it. `key` is a 64-bit digest of the key in the body: half the space, and a reader compares the key.
-- STRICT tables need SQLite 3.37.

BEGIN IMMEDIATE;

CREATE TABLE info (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    crc   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE stream (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    crc  INTEGER NOT NULL
) STRICT;

-- The second path to a name: that a stream is new both indices must say.
CREATE INDEX stream_crc ON stream (crc);

CREATE TABLE kind (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    crc  INTEGER NOT NULL
) STRICT;

CREATE TABLE event (
    position INTEGER PRIMARY KEY CHECK (position > 0),
    stream   INTEGER NOT NULL,
    version  INTEGER NOT NULL CHECK (version > 0),
    kind     INTEGER NOT NULL,
    key      INTEGER,
    body     BLOB NOT NULL,
    crc      INTEGER NOT NULL,
    mark     INTEGER, -- 1 in the first record of its stream among 64 positions, else NULL
    UNIQUE (stream, version) -- the lock: of two writers of one version, one fails
) STRICT;

CREATE INDEX event_key ON event (key) WHERE key IS NOT NULL;

-- The second path to the end of a stream: the last mark says among which positions it is.
CREATE INDEX event_mark ON event (stream, position) WHERE mark IS NOT NULL;

-- Positions that were given up, with all of their streams. Readers pass them over; anything else missing is damage.
CREATE TABLE pruned (
    first INTEGER PRIMARY KEY CHECK (first > 0),
    last  INTEGER NOT NULL CHECK (last >= first),
    crc   INTEGER NOT NULL
) STRICT;

-- `digest` and `codec` are of the plaintext, `encoding` and `stored_size` of the bytes that are stored. A large value
-- is in a pack file instead of `data`, see `packs`.
CREATE TABLE value (
    digest      BLOB NOT NULL UNIQUE,
    codec       TEXT NOT NULL,
    encoding    TEXT NOT NULL, -- '' for the plaintext itself
    stored_size INTEGER NOT NULL CHECK (stored_size >= 0),
    data        BLOB,
    pack        INTEGER CHECK (pack > 0),
    offset      INTEGER CHECK (offset >= 0),
    CHECK ((data IS NULL) = (pack IS NOT NULL)),
    CHECK ((pack IS NULL) = (offset IS NULL))
) STRICT;

CREATE UNIQUE INDEX value_place ON value (pack, offset) WHERE pack IS NOT NULL;

-- What was computed from the events up to a position; may be deleted at any time.
CREATE TABLE snapshot (
    name TEXT PRIMARY KEY,
    data BLOB NOT NULL,
    crc  INTEGER NOT NULL
) STRICT;

-- Rows that projections have made of the events, and how far; may be deleted at any time, all of a model together.
CREATE TABLE read_model (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    code     TEXT NOT NULL, -- digest of the code that folded
    position INTEGER NOT NULL,
    rows     INTEGER NOT NULL, -- how many there are
    total    INTEGER NOT NULL, -- all their `crc` added up, the last 32 bits of it
    crc      INTEGER NOT NULL
) STRICT;

CREATE TABLE read_row (
    model INTEGER NOT NULL,
    name  TEXT NOT NULL,
    data  BLOB NOT NULL,
    crc   INTEGER NOT NULL,
    PRIMARY KEY (model, name)
) STRICT, WITHOUT ROWID;

-- With `recursive_triggers` they also stop INSERT OR REPLACE.
CREATE TRIGGER event_is_immutable BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'events are immutable'); END;
CREATE TRIGGER event_is_permanent BEFORE DELETE ON event
WHEN NOT EXISTS (SELECT 1 FROM pruned WHERE OLD.position BETWEEN first AND last)
    OR OLD.position = (SELECT max(position) FROM event) -- which says where to go on
BEGIN SELECT RAISE(ABORT, 'events are permanent'); END;
CREATE TRIGGER stream_is_immutable BEFORE UPDATE ON stream
BEGIN SELECT RAISE(ABORT, 'names of streams are immutable'); END;
CREATE TRIGGER stream_is_permanent BEFORE DELETE ON stream
WHEN EXISTS (SELECT 1 FROM event WHERE stream = OLD.id)
    OR OLD.id = (SELECT max(id) FROM stream) -- or its number would be given again
BEGIN SELECT RAISE(ABORT, 'names of streams are permanent'); END;
CREATE TRIGGER value_is_immutable BEFORE UPDATE ON value
BEGIN SELECT RAISE(ABORT, 'values are immutable'); END;

PRAGMA application_id = 0x65766C67; -- "evlg"
PRAGMA user_version = 1;

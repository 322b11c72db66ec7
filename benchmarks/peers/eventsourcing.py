"""The PyPI package eventsourcing 9.5, SQLite: append and replay rates only.

python -m benchmarks.peers.eventsourcing append|replay [--n N]
'recorder' is the bare recorder (stored bytes), 'aggregate' the whole library (events, JSON transcoder, mapper).
"""

import os
from uuid import uuid4

from benchmarks import common

a = common.ask(__doc__)
n = a.n if a.n != 1000 else 20000
os.environ.update(PERSISTENCE_MODULE="eventsourcing.sqlite", SQLITE_DBNAME=str(a.dir / "es.db"))
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import StoredEvent

DUR = "eventsourcing SQLite recorder as shipped (WAL); one commit per save()"
STATE = b"x" * 176


class Run(Aggregate):
    @event("Started")
    def __init__(self):
        self.last = None
        self.k = 0

    @event("TaskMoved")
    def move(self, task, state, result):
        self.last = (task, state, result)
        self.k += 1


app = Application()
rec = app.recorder


def stored(oid, k, m):
    return [StoredEvent(oid, k + j, "bench:TaskMoved", STATE) for j in range(m)]


if a.workload == "append":
    for batch in (1, 10, 100, 1000):
        m_ = n if batch > 1 else n // 4
        oid = uuid4()
        with common.Meter() as m:
            for k in range(0, m_, batch):
                rec.insert_events(stored(oid, k, batch))
        common.emit("eventsourcing-recorder", f"append/{batch}", m_, m.usage, DUR)
    for batch in (1, 100):
        r = Run()
        app.save(r)
        m_ = n if batch > 1 else n // 4
        with common.Meter() as m:
            for k in range(0, m_, batch):
                for j in range(batch):
                    r.move(f"t-{k + j}", "Success", {"i": k + j, "ok": True})
                app.save(r)
        common.emit("eventsourcing-aggregate", f"append/{batch}", m_, m.usage, DUR)
else:
    r = Run()
    for k in range(n):
        r.move(f"t-{k}", "Success", {"i": k, "ok": True})
    app.save(r)
    with common.Meter() as m:
        rows = rec.select_events(r.id)
    common.emit("eventsourcing-recorder", "replay", len(rows), m.usage, DUR)
    with common.Meter() as m:
        got = app.repository.get(r.id)
    assert got.k == n
    common.emit("eventsourcing-aggregate", "replay", n, m.usage, DUR)

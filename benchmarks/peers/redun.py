"""redun: local scheduler, default thread executor, SQLite backend in a file, as shipped.

python -m benchmarks.peers.redun W1|W2|W3|W4|W5|W6|W7|W8|W9 [--n N]
W1: a 1,000-deep nested expression (needs a raised recursion limit). W8: 1,000 scheduler.run calls in turn.
"""

import logging
import os
import shutil
import sys

from benchmarks import common

a = common.ask(__doc__)
w, n = a.workload, a.n
DUR = "SQLite backend as shipped (SQLAlchemy; commits per call node and value)"
if w == "W9":
    common.cold("redun", common.main_module("W9run", "--n", "1"), DUR, runs=3)
    sys.exit()
if w == "W5" and not a.phase:
    common.crash_resume("redun", a, DUR)
    sys.exit()
sys.setrecursionlimit(100000)
from redun import Scheduler, task
from redun.config import Config

logging.getLogger("redun").setLevel(logging.ERROR)
redun_namespace = "bench"


def leave():
    """End the process although redun's threads are still alive."""
    if a.own:
        shutil.rmtree(a.dir, ignore_errors=True)
    sys.stdout.flush()
    os._exit(0)


@task()
def t(i, prev=None):
    return common.small(i)


@task()
def tbig(i):
    return common.big(i)


@task()
def join(xs):
    return {"n": len(xs)}


@task()
def fan(n):
    return join([t(i) for i in range(n)])


@task()
def fanbig(n):
    return join([tbig(i) for i in range(n)])


@task()
def chain(n):
    x = None
    for i in range(n):
        x = t(i, x)
    return x


@task()
def layered():
    prev = []
    for L in range(common.LAYERS):
        prev = [t(L * common.WIDTH + j, [prev[k] for k in common.deps(L, j)]) for j in range(common.WIDTH)]
    return join(prev)


@task()
def five(k):
    x = None
    for j in range(5):
        x = t(k * 5 + j, x)
    return x


def sched():
    s = Scheduler(config=Config({"backend": {"db_uri": f"sqlite:///{a.dir}/redun.db"}}))
    s.load()
    return s


s = sched()
if a.phase:
    s.run(fan(n))
    leave()
extra = {}
if w == "W9run":
    s.run(t(0))
    leave()
s.run(t(-1))
if w in ("W4", "W6"):
    s.run(fan(n))
    if w == "W4":
        log = a.dir / "executed.txt"
        common.record_bodies(log)
        s = sched()
with common.Meter() as m:
    if w == "W1":
        s.run(chain(n))
    elif w in ("W2", "W4"):
        s.run(fan(n))
    elif w == "W3":
        s.run(layered())
    elif w == "W7":
        s.run(fanbig(n))
    elif w == "W8":
        for k in range(n):
            s.run(five(k))
    elif w == "W6":
        from redun.backends.db import CallNode

        rows = s.backend.session.query(CallNode).all()
        got = [(c.task_name, c.timestamp, c.value_hash) for c in rows]
        extra = {"rows": len(got), "note": "all CallNode rows by the ORM, values not decoded"}
if w == "W4":
    extra = {"executed": len(common.executed(log))}
if w == "W8":
    extra = {"flows": n}
common.emit("redun", w, n * 5 if w == "W8" else n, m.usage, DUR, **extra)
leave()

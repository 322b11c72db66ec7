"""DBOS Transact 3: SQLite file (default) or PostgreSQL (--db pg, BENCH_PG), as shipped.

python -m benchmarks.peers.dbos W1|W2|W3|W4|W5|W6|W7|W8|W9 [--n N] [--db sqlite|pg]
W4: DBOS has no cross-run cache of steps; measured is the nearest thing, a second call under the same workflow id.
"""

import asyncio
import os
import sys
import uuid

from benchmarks import common

PG = os.environ.get("BENCH_PG", "postgresql://bench@127.0.0.1:55432/postgres")

a = common.ask(__doc__, db=("sqlite", "pg"))
db = a.db
w, n = a.workload, a.n
NAME = f"dbos-{db}"
DUR = {
    "sqlite": "SQLite as shipped; one commit per finished step, awaited",
    "pg": "PostgreSQL 15, synchronous_commit=on; one commit per finished step, awaited",
}[db]
if w == "W9":
    common.cold(NAME, common.main_module("W9run", "--db", db), DUR, runs=3)
    sys.exit()
if w == "W5" and not a.phase:
    common.crash_resume(NAME, a, DUR, "--db", db)
    sys.exit()
from dbos import DBOS, DBOSConfig, SetWorkflowID

if db == "pg":
    import psycopg

    if a.phase != "resume":
        with psycopg.connect(PG, autocommit=True) as c:
            c.execute("DROP DATABASE IF EXISTS bench_dbos WITH (FORCE)")
            c.execute("CREATE DATABASE bench_dbos")
    url = PG.rsplit("/", 1)[0] + "/bench_dbos"
else:
    url = f"sqlite:///{a.dir}/dbos.sqlite"
cfg: DBOSConfig = {
    "name": "bench",
    "system_database_url": url,
    "log_level": "ERROR",
    "run_admin_server": False,
    "application_version": "1",
}
DBOS(config=cfg)


@DBOS.step()
async def t(i):
    return await common.asmall(i)


@DBOS.step()
async def tdep(i, up):
    return common.small(i)


@DBOS.step()
async def tbig(i):
    return common.big(i)


@DBOS.step()
async def join(k):
    return {"n": k}


@DBOS.workflow()
async def chain(n):
    for i in range(n):
        await t(i)


@DBOS.workflow()
async def fan(n):
    return await join(len(await asyncio.gather(*(t(i) for i in range(n)))))


@DBOS.workflow()
async def fanbig(n):
    return await join(len(await asyncio.gather(*(tbig(i) for i in range(n)))))


@DBOS.workflow()
async def layered():
    prev = []
    for L in range(common.LAYERS):
        prev = await asyncio.gather(
            *(tdep(L * common.WIDTH + j, [prev[k] for k in common.deps(L, j)]) for j in range(common.WIDTH))
        )


@DBOS.workflow()
async def five(k):
    for j in range(5):
        await t(k * 5 + j)


async def main():
    wid = "w5" if w == "W5" else str(uuid.uuid4())
    if a.phase == "resume":
        DBOS.launch()
        h = await DBOS.retrieve_workflow_async(wid)
        return await h.get_result()
    DBOS.launch()
    if w != "W9run":
        await chain(1)
    extra = {}
    if w == "W4":
        with SetWorkflowID(wid):
            await fan(n)
        log = a.dir / "executed.txt"
        common.record_bodies(log)
    if w == "W6":
        with SetWorkflowID(wid):
            await fan(n)
    with common.Meter() as m:
        if w in ("W1", "W9run"):
            await chain(n)
        elif w in ("W2", "W4", "W5"):
            with SetWorkflowID(wid):
                await fan(n)
        elif w == "W3":
            await layered()
        elif w == "W6":
            steps = await DBOS.list_workflow_steps_async(wid)
            extra = {"rows": len(steps)}
        elif w == "W7":
            await fanbig(n)
        elif w == "W8":
            hs = [await DBOS.start_workflow_async(five, k) for k in range(n)]
            await asyncio.gather(*(h.get_result() for h in hs))
    if w == "W4":
        extra = {
            "executed": len(common.executed(log)),
            "note": "same workflow id: one recorded result, not per-task caching",
        }
    if w == "W8":
        extra = {"flows": n}
    common.emit(NAME, w, n * 5 if w == "W8" else n, m.usage, DUR, **extra)
    return None


try:
    asyncio.run(main())
finally:
    DBOS.destroy()

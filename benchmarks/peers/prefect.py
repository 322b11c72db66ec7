"""Prefect 3: ephemeral server (subprocess) on its default SQLite file, as shipped.

python -m benchmarks.peers.prefect W1|W2|W3|W4|W6|W7|W8|W9 [--n N] [--mode async|threads]
W2 --mode async: awaited async tasks under asyncio.gather; threads: sync task.map on the default ThreadPoolTaskRunner.
The ephemeral server's start is not counted (one warm-up flow first), except in W9.
"""

import asyncio
import os
import sys

from benchmarks import common

a = common.ask(__doc__, mode=("async", "threads"))
os.environ.update(
    PREFECT_HOME=str(a.dir),
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="true",
    PREFECT_LOGGING_LEVEL="ERROR",
    PREFECT_SERVER_LOGGING_LEVEL="ERROR",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    DO_NOT_TRACK="1",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY="false",
)
for k in list(os.environ):
    if k.startswith("PREFECT_API_"):
        del os.environ[k]
DUR = "results in memory (default); states sent as events to the ephemeral server's SQLite, asynchronously"
if a.workload == "W9":
    common.cold("prefect", common.main_module("W9run"), "as shipped, ephemeral server started", runs=3)
    sys.exit()
from prefect import flow, task
from prefect.cache_policies import INPUTS

PERSIST = a.workload in ("W4", "W5")
if PERSIST:
    DUR += "; persist_result=True (local file storage), cache_policy=INPUTS"
OPT = {"persist_result": True, "cache_policy": INPUTS} if PERSIST else {}
mode = a.mode


@task(**OPT)
async def t(i: int):
    return await common.asmall(i)


@task(**OPT)
def ts(i: int):
    return common.small(i)


@task
async def tbig(i: int):
    return common.big(i)


@task
async def join(xs):
    return {"n": len(xs)}


@task
async def tdep(i: int, up):
    return common.small(i)


@flow
async def one():
    return await t(0)


@flow
async def chain(n):
    for i in range(n):
        r = await t(i)
    return r


@flow
async def fan(n, fn=t):
    return await join(await asyncio.gather(*(fn(i) for i in range(n))))


@flow
def fan_threads(n):
    fs = ts.map(range(n))
    return len([f.result() for f in fs])


@flow
async def layered():
    prev = []
    for L in range(common.LAYERS):
        prev = await asyncio.gather(
            *(tdep(L * common.WIDTH + j, [prev[k] for k in common.deps(L, j)]) for j in range(common.WIDTH))
        )
    return len(prev)


@flow
async def five(k):
    for j in range(5):
        r = await t(k * 5 + j)
    return r


async def main():
    w, n = a.workload, a.n
    if a.phase:
        return await fan(n)
    await one()
    if w == "W9run":
        return None
    if w == "W1":
        with common.Meter() as m:
            await chain(n)
    elif w in ("W2", "W4") and mode == "async":
        if w == "W4":
            await fan(n)
            log = a.dir / "executed.txt"
            common.record_bodies(log)
        with common.Meter() as m:
            await fan(n)
        if w == "W4":
            return common.emit(
                "prefect",
                w,
                n,
                m.usage,
                DUR,
                executed=len(common.executed(log)),
                note="second run in the same process",
            )
    elif w == "W2":
        with common.Meter() as m:
            await asyncio.to_thread(fan_threads, n)
        return common.emit("prefect-threads", w, n, m.usage, DUR)
    elif w == "W3":
        with common.Meter() as m:
            await layered()
    elif w == "W7":
        with common.Meter() as m:
            await fan(n, tbig)
    elif w == "W8":
        sem = asyncio.Semaphore(50)

        async def lim(k):
            async with sem:
                await five(k)

        with common.Meter() as m:
            await asyncio.gather(*(lim(k) for k in range(n)))
        return common.emit("prefect", w, n * 5, m.usage, DUR, flows=n)
    elif w == "W6":
        from prefect import get_client
        from prefect.client.schemas.filters import FlowRunFilter

        st = await fan(n, return_state=True)
        fid = st.state_details.flow_run_id
        async with get_client() as c:
            flt = FlowRunFilter(id={"any_": [fid]})
            for _ in range(60):  # the recorder is asynchronous: wait until all rows are there
                got = await c.read_task_runs(flow_run_filter=flt, limit=1, offset=n)
                if got:
                    break
                await asyncio.sleep(1)
            with common.Meter() as m:
                rows, k = [], 0
                while True:
                    got = await c.read_task_runs(flow_run_filter=flt, limit=200, offset=k)
                    rows += got
                    k += len(got)
                    if len(got) < 200:
                        break
        return common.emit("prefect", w, len(rows), m.usage, DUR, note="task runs read by REST, 200 a page")
    common.emit("prefect", w, n, m.usage, DUR)
    return None


if a.workload == "W5" and not a.phase:
    common.crash_resume("prefect", a, DUR)
else:
    asyncio.run(main())

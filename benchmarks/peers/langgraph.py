"""LangGraph functional API with AsyncSqliteSaver (durability='async', the default).

python -m benchmarks.peers.langgraph W1|W2|W3|W4|W5|W6|W7|W8|W9 [--n N] [--durability async|sync|exit]
W4: CachePolicy with SqliteCache. W6: graph state and its pending writes of a finished-but-one run.
"""

import asyncio
import sys

from benchmarks import common

a = common.ask(__doc__, durability=("async", "sync", "exit"))
w, n = a.workload, a.n
dur = a.durability
DUR = f"AsyncSqliteSaver, durability={dur}; one commit per finished task's writes"
if w == "W9":
    common.cold("langgraph", common.main_module("W9run", "--n", "1"), DUR, runs=3)
    sys.exit()
if w == "W5" and not a.phase:
    common.crash_resume("langgraph", a, DUR)
    sys.exit()
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.types import CachePolicy

POL = {"cache_policy": CachePolicy()} if w == "W4" else {}


@task(**POL)
async def t(i):
    return await common.asmall(i)


@task
async def tdep(i, up):
    return common.small(i)


@task
async def tbig(i):
    return common.big(i)


@task
async def join(k):
    return {"n": k}


async def main():
    cache = None
    if w == "W4":
        from langgraph.cache.sqlite import SqliteCache

        cache = SqliteCache(path=str(a.dir / "cache.db"))
    async with AsyncSqliteSaver.from_conn_string(str(a.dir / "lg.db")) as cp:

        @entrypoint(checkpointer=cp, cache=cache)
        async def chain(n):
            for i in range(n):
                await t(i)

        @entrypoint(checkpointer=cp, cache=cache)
        async def fan(n):
            rs = await asyncio.gather(*[t(i) for i in range(n)])
            return await join(len(rs))

        @entrypoint(checkpointer=cp)
        async def fanbig(n):
            rs = await asyncio.gather(*[tbig(i) for i in range(n)])
            return await join(len(rs))

        @entrypoint(checkpointer=cp)
        async def layered(_):
            prev = []
            for L in range(common.LAYERS):
                prev = await asyncio.gather(
                    *[
                        tdep(L * common.WIDTH + j, [prev[k] for k in common.deps(L, j)])
                        for j in range(common.WIDTH)
                    ]
                )
            return len(prev)

        @entrypoint(checkpointer=cp)
        async def five(k):
            for j in range(5):
                await t(k * 5 + j)

        def cfg(i):
            return {"configurable": {"thread_id": str(i)}, "recursion_limit": 1_000_000}

        kw = {"durability": dur}
        if a.phase == "resume":
            started = await cp.aget_tuple(cfg("w5"))  # None: killed before the first checkpoint was on disk
            return await fan.ainvoke(None if started else n, cfg("w5"), **kw)
        if a.phase:
            return await fan.ainvoke(n, cfg("w5"), **kw)
        if w != "W9run":
            await chain.ainvoke(1, cfg("warm"), **kw)
        extra = {}
        if w in ("W4", "W6"):
            await fan.ainvoke(n, cfg(0), **kw)
        if w == "W4":
            log = a.dir / "executed.txt"
            common.record_bodies(log)
        with common.Meter() as m:
            if w in ("W1", "W9run"):
                await chain.ainvoke(n, cfg(1), **kw)
            elif w in ("W2", "W4"):
                await fan.ainvoke(n, cfg(1), **kw)
            elif w == "W3":
                await layered.ainvoke(0, cfg(1), **kw)
            elif w == "W7":
                await fanbig.ainvoke(n, cfg(1), **kw)
            elif w == "W8":
                sem = asyncio.Semaphore(50)

                async def one(k):
                    async with sem:
                        await five.ainvoke(k, cfg(k), **kw)

                await asyncio.gather(*(one(k) for k in range(n)))
            elif w == "W6":
                k = 0
                async for c in cp.alist(cfg(0)):
                    k += len(c.pending_writes or [])
                extra = {"rows": k, "note": "all checkpoints with their pending writes, decoded"}
        if w == "W4":
            extra = {"executed": len(common.executed(log))}
        if w == "W8":
            extra = {"flows": n}
        common.emit("langgraph", w, n * 5 if w == "W8" else n, m.usage, DUR, **extra)
    return None


asyncio.run(main())

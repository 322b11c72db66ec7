"""Restate: single-node server binary (npm @restatedev/restate-server), Python SDK served by hypercorn.

RESTATE_SERVER=/path/to/restate-server python -m benchmarks.peers.restate W1|W2|W3|W5|W7|W8 [--n N]
Each task is a ctx.run step. Server start and registration are not counted. W5 kills the service process, not the server.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from benchmarks import common

PORT = int(os.environ.get("BENCH_RESTATE_PORT", "9480"))  # service; +1 ingress, +2 admin, +3 node
DUR = "restate-server single node, as shipped (RocksDB, replicated log on disk)"
import restate

svc = restate.Service("bench")


async def step(ctx, i, fn=common.small):
    return await ctx.run_typed(f"t{i}", fn, i=i)


@svc.handler()
async def chain(ctx: restate.Context, n: int) -> int:
    for i in range(n):
        await step(ctx, i)
    return n


async def _fan(ctx, n, fn):
    hs = [ctx.run_typed(f"t{i}", fn, i=i) for i in range(n)]
    await restate.gather(*hs)
    return await ctx.run_typed("join", lambda: n)


@svc.handler()
async def fan(ctx: restate.Context, n: int) -> int:
    return await _fan(ctx, n, common.asmall)


@svc.handler()
async def fanbig(ctx: restate.Context, n: int) -> int:
    return await _fan(ctx, n, common.big)


@svc.handler()
async def layered(ctx: restate.Context, n: int) -> int:
    for L in range(common.LAYERS):
        await restate.gather(
            *[ctx.run_typed(f"t{L}_{j}", common.small, i=L * common.WIDTH + j) for j in range(common.WIDTH)]
        )
    return n


@svc.handler()
async def five(ctx: restate.Context, k: int) -> int:
    for j in range(5):
        await step(ctx, k * 5 + j)
    return k


app = restate.app([svc])


def call(name, arg, timeout=140):
    rq = urllib.request.Request(
        f"http://127.0.0.1:{PORT + 1}/bench/{name}",
        json.dumps(arg).encode(),
        {"content-type": "application/json"},
    )
    return json.load(urllib.request.urlopen(rq, timeout=timeout))


def serve(env=None):
    return subprocess.Popen(
        common.main_module("serve"),
        env=env or os.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait(url):
    for _ in range(300):
        try:
            return urllib.request.urlopen(url, timeout=1).read()
        except Exception:
            time.sleep(0.1)
    raise SystemExit("no answer from " + url)


def main():
    a = common.ask(__doc__)
    w, n = a.workload, a.n
    env = dict(
        os.environ,
        RESTATE_BASE_DIR=str(a.dir),
        RESTATE_INGRESS__BIND_ADDRESS=f"127.0.0.1:{PORT + 1}",
        RESTATE_ADMIN__BIND_ADDRESS=f"127.0.0.1:{PORT + 2}",
        RESTATE_BIND_ADDRESS=f"127.0.0.1:{PORT + 3}",
        RESTATE_ADVERTISED_ADDRESS=f"http://127.0.0.1:{PORT + 3}",
        DO_NOT_TRACK="1",
        RESTATE_LOG_FILTER="warn",
    )
    log = a.dir / "executed.txt"
    srv = subprocess.Popen(
        [os.environ.get("RESTATE_SERVER", "restate-server"), "--node-name", "n1"],
        env=env,
        stdout=(a.dir / "srv.log").open("w"),
        stderr=subprocess.STDOUT,
        cwd=a.dir,
    )
    p = serve(
        dict(os.environ, BENCH_EXEC_LOG=log, BENCH_KILL_AT=str(n // 2), BENCH_STAGGER_MS="4")
        if w == "W5"
        else None
    )
    try:
        wait(f"http://127.0.0.1:{PORT + 2}/health")
        time.sleep(2)
        rq = urllib.request.Request(
            f"http://127.0.0.1:{PORT + 2}/deployments",
            json.dumps({"uri": f"http://127.0.0.1:{PORT}"}).encode(),
            {"content-type": "application/json"},
        )
        urllib.request.urlopen(rq, timeout=30).read()
        wait(f"http://127.0.0.1:{PORT + 1}/restate/health")
        if w == "W5":
            ex = ThreadPoolExecutor(1)
            fut = ex.submit(call, "fan", n)
            rc = p.wait()
            before = common.executed(log)
            with common.Meter() as m:
                p = serve(dict(os.environ, BENCH_EXEC_LOG=log))
                fut.result()
            after = common.executed(log)
            common.emit(
                "restate",
                w,
                n,
                m.usage,
                DUR,
                killed_rc=rc,
                done_before=len(before),
                executed_on_resume=len(after) - len(before),
                reexecuted=len(set(before) & set(after[len(before) :])),
                complete=len(set(after)) == n,
                note="service process killed and restarted; the server kept running and retries with back-off",
            )
            return
        assert p.poll() is None, "the service did not start"
        call("chain", 1)
        with common.Meter() as m:
            if w == "W1":
                call("chain", n)
            elif w == "W2":
                call("fan", n)
            elif w == "W3":
                call("layered", n)
            elif w == "W7":
                call("fanbig", n)
            elif w == "W8":
                with ThreadPoolExecutor(50) as ex:
                    list(ex.map(lambda k: call("five", k), range(n)))
        extra = {"flows": n} if w == "W8" else {}
        common.emit("restate", w, n * 5 if w == "W8" else n, m.usage, DUR, **extra)
    finally:
        p.kill()
        srv.terminate()
        try:
            srv.wait(10)
        except subprocess.TimeoutExpired:
            srv.kill()


if __name__ == "__main__":
    if sys.argv[1] == "serve":  # one process, so that SIGKILL leaves no worker behind
        from hypercorn.asyncio import serve as hserve
        from hypercorn.config import Config

        cfg = Config()
        cfg.bind, cfg.loglevel = [f"127.0.0.1:{PORT}"], "ERROR"
        asyncio.run(hserve(app, cfg))
    else:
        main()

"""dagster: graph of ops, execute_in_process with a local SQLite instance and the default fs IO manager.

python -m benchmarks.peers.dagster W1|W2|W3|W6|W9 [--n N]
"""

import logging
import os
import sys

from benchmarks import common

a = common.ask(__doc__)
w, n = a.workload, a.n
DUR = "DagsterInstance on local SQLite (event log), fs_io_manager (one pickle per output)"
if w == "W9":
    common.cold("dagster", common.main_module("W9run", "--n", "1"), DUR, runs=3)
    sys.exit()
os.environ.update(DAGSTER_DISABLE_TELEMETRY="1", DAGSTER_HOME=str(a.dir))
import dagster as dg

logging.disable(logging.CRITICAL)


@dg.op(ins={"up": dg.In(dg.Nothing)}, config_schema=None)
def t():
    return common.small(0)


@dg.op
def src():
    return 0


@dg.op
def leaf(x):
    return common.small(x)


@dg.op
def dep(up: list):
    return common.small(0)


@dg.op
def join(xs: list):
    return {"n": len(xs)}


@dg.graph
def chain():
    x = src()
    for i in range(n):
        x = leaf.alias(f"t{i}")(x)


@dg.graph
def fan():
    x = src()
    join([leaf.alias(f"t{i}")(x) for i in range(n)])


@dg.graph
def layered():
    prev = []
    for L in range(common.LAYERS):
        prev = [
            dep.alias(f"t{L}_{j}")([prev[k] for k in common.deps(L, j)]) if L else src.alias(f"t0_{j}")()
            for j in range(common.WIDTH)
        ]
    join(prev)


g = {"W1": chain, "W2": fan, "W3": layered, "W6": fan, "W9run": fan}[w]
with dg.DagsterInstance.local_temp(str(a.dir)) as inst:
    job = g.to_job(
        resource_defs={"io_manager": dg.fs_io_manager.configured({"base_dir": str(a.dir)})},
        logger_defs={},
        executor_def=dg.in_process_executor,
    )
    with common.Meter() as m:
        r = job.execute_in_process(instance=inst)
    assert r.success
    extra = {}
    if w == "W6":
        with common.Meter() as m:
            rows = inst.all_logs(r.run_id)
        extra = {"rows": len(rows), "note": "all event log records, decoded"}
    common.emit("dagster", w, n, m.usage, DUR, **extra)

"""luigi: local scheduler, one process, LocalTarget files (its usual way).

python -m benchmarks.peers.luigi W1|W2|W3|W4|W5|W7|W9 [--n N]
"""

import json
import logging
import sys

from benchmarks import common

a = common.ask(__doc__)
w, n = a.workload, a.n
DUR = "one JSON file per task (atomic rename, no fsync); no event history"
if w == "W9":
    common.cold("luigi", common.main_module("W9run", "--n", "1"), DUR, runs=3)
    sys.exit()
if w == "W5" and not a.phase:
    common.crash_resume("luigi", a, DUR)
    sys.exit()
sys.setrecursionlimit(100000)
import luigi

logging.disable(logging.CRITICAL)
BODY = common.big if w == "W7" else common.small


class T(luigi.Task):
    kind = luigi.Parameter()
    i = luigi.IntParameter()

    def requires(self):
        if self.kind == "join":
            return [T("leaf", k) for k in range(self.i)]
        if self.kind == "chain" and self.i > 0:
            return [T("chain", self.i - 1)]
        if self.kind == "ljoin":
            return [T("layer", (common.LAYERS - 1) * common.WIDTH + j) for j in range(common.WIDTH)]
        if self.kind == "layer":
            L, j = divmod(self.i, common.WIDTH)
            return [T("layer", (L - 1) * common.WIDTH + k) for k in common.deps(L, j)]
        return []

    def output(self):
        return luigi.LocalTarget(str(a.dir / f"{self.kind}-{self.i}.json"))

    def run(self):
        r = {"n": self.i} if "join" in self.kind else BODY(self.i)
        with self.output().open("w") as f:
            json.dump(r, f)


def go(kind, i):
    assert luigi.build([T(kind, i)], local_scheduler=True, workers=1, no_lock=True, log_level="CRITICAL")


if a.phase:
    go("join", n)
    sys.exit()
extra = {}
if w == "W4":
    go("join", n)
    log = a.dir / "executed.txt"
    common.record_bodies(log)
    (a.dir / f"join-{n}.json").unlink()  # else luigi stops at the finished root
with common.Meter() as m:
    if w == "W9run":
        go("leaf", 0)
    elif w == "W1":
        go("chain", n - 1)
    elif w in ("W2", "W4", "W7"):
        go("join", n)
    elif w == "W3":
        go("ljoin", 0)
if w == "W4":
    extra = {
        "executed": len(common.executed(log)),
        "note": "n completeness checks of files, only the join runs",
    }
common.emit("luigi", w, n, m.usage, DUR, **extra)

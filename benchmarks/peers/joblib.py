"""joblib.Memory: a cache of results in files, for W4 alone; runs nothing concurrently.

python -m benchmarks.peers.joblib W4 [--n N]
"""

from joblib import Memory

from benchmarks import common

a = common.ask(__doc__)
f = Memory(a.dir, verbose=0).cache(common.small)
for i in range(a.n):
    f(i)
log = a.dir / "executed.txt"
common.record_bodies(log)
with common.Meter() as m:
    for i in range(a.n):
        f(i)
executed = len(common.executed(log))
common.emit("joblib", "W4", a.n, m.usage, "one pickle folder per result, no fsync", executed=executed)

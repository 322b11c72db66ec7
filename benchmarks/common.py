"""What every benchmark program shares: its command line, its meter, a task's body, the crash and the cold start.

One program per system, the same workloads, one JSON line per run on stdout:

    {"system": …, "workload": …, "n": …, "wall_s": …, "cpu_s": …, "tasks_per_s": …, "peak_rss_mb": …,
     "durable": …, …}

Standard library only: programs of other systems import this in environments of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

__all__ = [
    "BESIDE",
    "LAYERS",
    "WIDTH",
    "Meter",
    "Usage",
    "ask",
    "asmall",
    "big",
    "cold",
    "crash_resume",
    "deps",
    "emit",
    "executed",
    "main_module",
    "record_bodies",
    "small",
]

_DEFAULT_N: Final = {"W6": 10_000, "W9": 1, "replay": 100_000, "build": 10_000}
LAYERS: Final = 20
WIDTH: Final = 50
_DEPS: Final = 3

BESIDE: Final = 50
"""W8: flows that run at a time."""

_MEBI: Final = 1 << 20
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
_PROC: Final = Path("/proc")


# ── a task's body ────────────────────────────────────────────────────────────────────────────────────────────

_STAGGER_S: Final = float(os.environ.get("BENCH_STAGGER_MS", "0")) / 1e3
_KILL_AT: Final = int(os.environ.get("BENCH_KILL_AT", "0"))


class _Witness:
    """Counts bodies outside the engine: an index a line, in a file that survives the process."""

    def __init__(self) -> None:
        path = os.environ.get("BENCH_EXEC_LOG")
        self.file: int | None = None
        self._count = 0
        if path:
            self.begin(path)

    def begin(self, path: str | os.PathLike[str]) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def saw(self, i: int) -> None:
        assert self.file is not None
        os.write(self.file, b"%d\n" % i)
        self._count += 1
        if self._count == _KILL_AT:
            os.kill(os.getpid(), signal.SIGKILL)


_witness: Final = _Witness()


def record_bodies(path: str | os.PathLike[str]) -> None:
    """From now on append the index of every body that runs to a file."""
    _witness.begin(path)


def executed(path: str | os.PathLike[str]) -> list[int]:
    """Indices of the bodies that ran, in their order."""
    found = Path(path)
    return [int(line) for line in found.read_text().split()] if found.exists() else []


def small(i: int) -> dict[str, Any]:
    """Build a small dict: only what surrounds a body should count."""
    if _witness.file is not None:
        _witness.saw(i)
    return {"i": i, "ok": True}


async def asmall(i: int) -> dict[str, Any]:
    """As `small`; in W5's run that is killed, task i ends after i × 4 ms.

    So ends are spread in time, and what is lost is what was not yet durable, not a burst of instant bodies.
    """
    if _STAGGER_S:
        await asyncio.sleep(i * _STAGGER_S)
    return small(i)


def big(i: int) -> dict[str, Any]:
    """100 KB that do not compress."""
    return {"i": i, "blob": os.urandom(50_000).hex()}


def deps(layer: int, place: int) -> list[int]:
    """W3: the places in the former layer on which a task depends."""
    return [(place + k * 7) % WIDTH for k in range(_DEPS)] if layer else []


# ── the meter ────────────────────────────────────────────────────────────────────────────────────────────────


class Usage(NamedTuple):
    """What something took, in seconds."""

    wall: float
    cpu: float


class Meter:
    """Measures a block: wall time, and processor time of this process, its children and its server."""

    def __enter__(self) -> Self:
        self._cpu, self._wall = _cpu_s(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.perf_counter() - self._wall
        self.usage = Usage(wall, _cpu_s() - self._cpu)


def _process_table() -> dict[int, list[tuple[int, list[str]]]]:
    """Parent → its children, each with the fields of its `stat` after the name; empty without /proc."""
    children: dict[int, list[tuple[int, list[str]]]] = {}
    for folder in _PROC.glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(fields[1]), []).append((int(folder.name), fields))
    return children


def _others() -> list[tuple[int, list[str]]]:
    """Live descendants, and the tree of the server named by `BENCH_SERVER_PID`."""
    children = _process_table()

    def below(pid: int) -> list[tuple[int, list[str]]]:
        return [found for child in children.get(pid, []) for found in (child, *below(child[0]))]

    server = int(os.environ.get("BENCH_SERVER_PID", "0"))
    own = [child for found in children.values() for child in found if server and child[0] == server]
    return below(os.getpid()) + own + (below(server) if server else [])


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ticks = sum(int(field) for _, fields in _others() for field in fields[11:15])
    return sum(part.ru_utime + part.ru_stime for part in used) + ticks / os.sysconf("SC_CLK_TCK")


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    for pid, _ in _others():
        try:
            status = (_PROC / str(pid) / "status").read_text()
        except OSError:
            continue
        peak += sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return peak / _MEBI


def emit(system: str, workload: str, n: int, usage: Usage, durable: str, **extra: Any) -> None:
    """Print a run's line; `n` counts tasks, `durable` says what is on disk when a result is handed on."""
    line = {
        "system": system,
        "workload": workload,
        "n": n,
        "wall_s": round(usage.wall, 5),
        "cpu_s": round(usage.cpu, 3),
        "tasks_per_s": round(n / usage.wall, 1),
        "peak_rss_mb": round(_peak_rss_mb(), 1),
        "durable": durable,
        **extra,
    }
    print(json.dumps(line), flush=True)


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────


def ask(doc: str | None, **options: Sequence[str]) -> argparse.Namespace:
    """Read the command line: `workload --n --dir --phase` and options by name, the first choice being the default.

    Without `--dir` a folder is made, in `BENCH_TMP` if that is set, and removed at exit.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload")
    parser.add_argument("--n", type=int, help="tasks; of W8 flows")
    parser.add_argument("--dir", type=Path, help="folder for state, which stays")
    parser.add_argument("--phase", default="", help=argparse.SUPPRESS)  # the two child runs of W5
    for name, choices in options.items():
        parser.add_argument(f"--{name}", choices=choices, default=choices[0])
    asked = parser.parse_args()
    if asked.n is None:
        asked.n = _DEFAULT_N.get(asked.workload, 1000)
    asked.own = asked.dir is None
    if asked.own:
        asked.dir = Path(tempfile.mkdtemp(prefix="bench-", dir=os.environ.get("BENCH_TMP")))
        atexit.register(shutil.rmtree, asked.dir, ignore_errors=True)
    return asked


def main_module(*arguments: str) -> list[str]:
    """The command that starts this very program in a fresh interpreter."""
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "start it with `python -m benchmarks.…`, from the repository's root"
    warnings = [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, *warnings, "-m", spec.name, *arguments]


# ── the crash and the cold start ─────────────────────────────────────────────────────────────────────────────


def crash_resume(
    system: str,
    asked: argparse.Namespace,
    durable: str,
    *options: str,
    recorded: Callable[[], set[int]] | None = None,
) -> None:
    """W5: a child kills itself with SIGKILL at half of its bodies; another one finishes the work.

    The bodies that ran are counted in a file outside the engine. `recorded` reads, from what the first
    child left behind, the indices of the tasks that it had finished; `lost` then counts those that ran
    again all the same, and those that never ran.
    """
    witness = asked.dir / "executed.txt"
    command = main_module("W5", "--n", str(asked.n), "--dir", str(asked.dir), *options, "--phase")
    env = {**os.environ, "BENCH_EXEC_LOG": str(witness)}
    killed = {**env, "BENCH_KILL_AT": str(asked.n // 2), "BENCH_STAGGER_MS": "4"}
    first = subprocess.Popen(
        [*command, "first"], env=killed, start_new_session=True, stdout=subprocess.DEVNULL
    )
    code = first.wait()
    if code != -signal.SIGKILL:
        raise SystemExit(f"{system}: the run that should be killed ended by itself, with status {code}")
    with suppress(ProcessLookupError):
        os.killpg(first.pid, signal.SIGKILL)  # and whatever it has started
    before = executed(witness)
    finished = recorded() if recorded else set()
    with Meter() as meter:
        subprocess.run([*command, "resume"], env=env, check=True, stdout=subprocess.DEVNULL)
    after = executed(witness)
    resumed = set(after[len(before) :])
    missing = set(range(asked.n)) - set(after)
    found = {"recorded_before": len(finished), "lost": len(missing | finished & resumed)} if recorded else {}
    emit(
        system,
        "W5",
        asked.n,
        meter.usage,
        durable,
        done_before=len(before),
        executed_on_resume=len(after) - len(before),
        reexecuted=len(set(before) & resumed),
        complete=not missing,
        note="wall_s is the whole process that resumes",
        **found,
    )


def cold(system: str, command: Sequence[str], durable: str, runs: int = 5) -> None:
    """W9: a fresh interpreter imports the system and runs a flow of one task; medians."""
    usages = []
    for _ in range(runs):
        with Meter() as meter:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        usages.append(meter.usage)
    median = Usage(*(statistics.median(each) for each in zip(*usages, strict=True)))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _RSS_UNIT / _MEBI
    emit(system, "W9", 1, median, durable, child_rss_mb=round(peak, 1), runs=runs)

"""Runs systems by turns, a fresh process each, and prints medians, ratios to a floor, and the goals.

    python -m benchmarks.run [--rounds 5] [--workloads W1,W2,W2@10000] [--systems eventflow,ideal,floor]
                             [--out results.jsonl] [--timeout 150]

A workload may name its size: W2@10000.  A system is named whole (`eventflow-full`) or by its family
(`eventflow`).  Machines drift by a factor of two within minutes: only ratios of runs that took turns mean
anything, and the ratio given is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ["GOALS", "SYSTEMS", "System"]

ROOT: Final = Path(__file__).resolve().parent.parent
VENVS: Final = Path(os.environ.get("BENCH_VENVS", ROOT / ".venv" / "peers"))
"""One environment for each peer, by its name."""


class System(NamedTuple):
    """One column of the comparison."""

    module: str
    durability: str
    workloads: tuple[str, ...]
    options: tuple[str, ...] = ()
    baseline: str = "ideal-full"
    """The floor of the same durability."""
    venv: str | None = None
    sizes: Mapping[str, int] = {}
    """Workload → tasks, where the usual number is out of reach."""


def _own(durability: str, baseline: str, workloads: str, *options: str) -> System:
    return System("eventflow_bench", durability, tuple(workloads.split()), options, baseline)


def _ideal(durability: str, sync: str, ack: str, workloads: str = "W1 W2 W3 W7 W8") -> System:
    return System("ideal", durability, tuple(workloads.split()), ("--sync", sync, "--ack", ack), "")


def _peer(
    name: str, workloads: str, *options: str, module: str = "", sizes: Mapping[str, int] | None = None
) -> System:
    return System(
        f"peers.{module or name}",
        "its own",
        tuple(workloads.split()),
        options,
        venv=module or name,
        sizes=sizes or {},
    )


_FEW: Final = dict.fromkeys(("W1", "W2", "W4", "W5", "W6", "W7"), 200)

SYSTEMS: Final[Mapping[str, System]] = {
    "floor": System("floor", "none", ("W1", "W2", "W3", "W7", "W8", "W9"), baseline=""),
    "floor-anyio": System("floor", "none", ("W1", "W2", "W8", "W9"), ("--loop", "anyio"), "floor"),
    "ideal-full": _ideal("full", "FULL", "await", "W1 W2 W3 W6 W7 W8"),
    "ideal-normal": _ideal("normal", "NORMAL", "await"),
    "ideal-pipelined": _ideal("pipelined", "NORMAL", "pipeline"),
    "eventflow-full": _own("full", "ideal-full", "W1 W2 W3 W4 W5 W6 W7 W8 W9 cached replay bitbake build"),
    "eventflow-normal": _own(
        "normal", "ideal-normal", "W1 W2 W3 W4 W5 W7 W8 cached bitbake", "--durability", "normal"
    ),
    "eventflow-pipelined": _own(
        "pipelined", "ideal-pipelined", "W1 W2 W3 W5 W7 W8", "--durability", "pipelined"
    ),
    "eventflow-full-plain": _own("full", "ideal-full", "W1 W2 W3 W7 W8", "--bodies", "plain"),
    "eventflow-memory": _own("none", "floor", "W1 W2 W3 W8", "--log", "memory"),
    "prefect": _peer("prefect", "W1 W2 W3 W4 W5 W6 W7 W8 W9", sizes={"W6": 5000, "W8": 100}),
    "prefect-threads": _peer("prefect", "W2", "--mode", "threads"),
    "dbos-sqlite": _peer("dbos", "W1 W2 W3 W4 W5 W6 W7 W8 W9"),
    "dbos-pg": _peer("dbos", "W1 W2 W3 W4 W5 W6 W7 W8 W9", "--db", "pg"),
    "redun": _peer("redun", "W1 W2 W3 W4 W5 W6 W7 W8 W9", sizes={**_FEW, "W8": 40}),
    "dagster": _peer("dagster", "W1 W2 W3 W6 W9", sizes=_FEW),
    "restate": _peer("restate", "W1 W2 W3 W5 W7 W8"),
    "langgraph": _peer("langgraph", "W1 W2 W3 W4 W5 W6 W7 W8 W9", sizes={"W4": 200}),
    "luigi": _peer("luigi", "W1 W2 W3 W4 W5 W7 W9"),
    "temporal": _peer("temporal", "W1 W2 W3 W5 W6 W8"),
    "joblib": _peer("joblib", "W4"),
    "eventsourcing": _peer("eventsourcing", "append replay"),
}

GOALS: Final[Mapping[tuple[str, str], tuple[float, float | None]]] = {
    ("W1", "eventflow-full"): (1.5, 1.25),
    ("W1", "eventflow-normal"): (1.7, 1.4),
    ("W1", "eventflow-pipelined"): (3, 2),
    ("W2", "eventflow-full"): (2.5, 1.7),
    ("W2", "eventflow-normal"): (2.5, 1.7),
    ("W2", "eventflow-full-plain"): (3, 2),
    ("W2@10000", "eventflow-full"): (2.5, None),
    ("W2@100000", "eventflow-full"): (2, None),
    ("W3", "eventflow-full"): (2.5, 1.7),
    ("W3", "eventflow-normal"): (2.5, 1.7),
    ("W4", "eventflow-full"): (1 / 2.5, 1 / 3.5),
    ("cached", "eventflow-full"): (1.35, 1.25),
    ("W6", "eventflow-full"): (1.5, 1.2),
    ("W7", "eventflow-full"): (1.5, 1.1),
    ("W8", "eventflow-full"): (5, 3.5),
    ("W8", "eventflow-normal"): (5, 3.5),
    ("W9", "eventflow-full"): (3, 2.3),
    ("replay", "eventflow-full"): (2.2, 1.7),
    ("bitbake", "eventflow-full"): (1.5, None),
    ("bitbake", "eventflow-normal"): (1.5, None),
}
"""(Workload, system) → largest ratio that is good enough, and the one aimed at."""

PER_TASK_GOAL: Final = 1.1
"""What a task of a larger fan-out may cost, in those of one of 1,000."""

Line: TypeAlias = dict[str, Any]
Runs: TypeAlias = dict[tuple[str, str], dict[int, Line]]
"""(Workload, system) → round → its line."""


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────


def start(name: str, workload: str, timeout: float) -> Line | None:
    """One run in a fresh process; None, and why on stderr, when it fails or takes too long."""
    system = SYSTEMS[name]
    kind, _, size = workload.partition("@")
    n = size or system.sizes.get(kind)
    python = str(VENVS / system.venv / "bin" / "python") if system.venv else sys.executable
    command = [python, "-W", "ignore", "-m", f"benchmarks.{system.module}", kind, *system.options]
    command += ["--n", str(n)] if n else []
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # with the servers that it has started
        process.communicate()
        out, err = "", f"not done after {timeout:g} s"
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        print(f"# {name} {workload} failed: {err.strip()[-500:] or out[-500:]}", file=sys.stderr)
        return None
    found: Line = json.loads(lines[-1])
    return found


def chosen(families: Iterable[str]) -> list[str]:
    """The systems that are named, whole or by family, and can be run here."""
    named = []
    for family in families:
        members = [name for name in SYSTEMS if name.startswith(f"{family}-")]
        found = [family] if family in SYSTEMS else members
        if not found:
            raise SystemExit(f"no system {family!r}: there are {', '.join(SYSTEMS)}")
        named += found
    able = []
    for name in dict.fromkeys(named):
        venv = SYSTEMS[name].venv
        if venv and not (VENVS / venv / "bin" / "python").exists():
            print(f"# {name} is left out: no environment {VENVS / venv}", file=sys.stderr)
        else:
            able.append(name)
    return able


def measure(asked: argparse.Namespace) -> Runs:
    """All rounds."""
    systems = chosen(asked.systems.split(","))
    pairs = [
        (workload, name)
        for workload in asked.workloads.split(",")
        for name in systems
        if workload.partition("@")[0] in SYSTEMS[name].workloads
    ]
    runs: Runs = {pair: {} for pair in pairs}
    failed: set[tuple[str, str]] = set()
    for turn in range(asked.rounds):
        print(f"# round {turn + 1} of {asked.rounds}", file=sys.stderr)
        for workload, name in pairs:
            if (workload, name) in failed:
                continue
            line = start(name, workload, asked.timeout)
            if line is None:
                failed.add((workload, name))
                continue
            runs[workload, name][turn] = line
            if asked.out:
                with asked.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({**line, "run": turn, "as": name}) + "\n")
    return {pair: found for pair, found in runs.items() if found}


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────


_BESIDE: Final = {"W4": "joblib", "W9": "floor"}
"""Where all systems stand beside the same one."""


def ratio(workload: str, name: str, runs: Runs) -> tuple[float | None, str]:
    """The median of the rounds' ratios, and to what."""
    own = runs[workload, name]
    if all("baseline_s" in line for line in own.values()):
        beside = {"replay": "bare fold", "bitbake": "W3 a task", "build": "one task", "cached": "W1"}.get(
            workload.partition("@")[0], "beside"
        )
        return statistics.median(line["wall_s"] / line["baseline_s"] for line in own.values()), beside
    kind = workload.partition("@")[0]
    baseline = _BESIDE.get(kind, SYSTEMS[name].baseline) if name not in _BESIDE.values() else ""
    floor = runs.get((workload, baseline), {})
    ratios = [line["wall_s"] / floor[turn]["wall_s"] for turn, line in own.items() if turn in floor]
    return (statistics.median(ratios), baseline) if ratios else (None, "")


def verdict(found: float, goal: tuple[float, float | None]) -> str:
    """Whether a ratio is good enough."""
    most, aim = goal
    if found > most:
        return "MISSED"
    return "met, aim too" if aim is not None and found <= aim else "met"


def row(workload: str, name: str, runs: Runs) -> tuple[str, ...]:
    """One line of the table."""
    lines = list(runs[workload, name].values())
    walls = sorted(line["wall_s"] for line in lines)
    median = statistics.median(walls)
    peaks = [float(line.get("child_rss_mb") or line["peak_rss_mb"]) for line in lines]
    found, against = ratio(workload, name, runs)
    goal = GOALS.get((workload, name))
    cells = [
        workload,
        name,
        SYSTEMS[name].durability,
        f"{median:.3f}",
        f"{walls[0]:.3f}–{walls[-1]:.3f}",
        f"{median / lines[0]['n'] * 1e6:,.1f}",
        f"{statistics.median(peaks):.0f}",
        "" if found is None else f"{found:.2f} × {against}",
        "" if goal is None else f"{goal[0]:g}" + (f" ({goal[1]:g})" if goal[1] is not None else ""),
        "" if found is None or goal is None else verdict(found, goal),
    ]
    if "reexecuted" in lines[0]:
        lost, again = (max(line.get(key, 0) for line in lines) for key in ("lost", "reexecuted"))
        complete = all(line["complete"] for line in lines)
        cells[7] = f"lost {lost}, run again {again}" if "lost" in lines[0] else f"run again {again}"
        if name.startswith("eventflow"):
            cells[8:] = ["lost 0", "met" if complete and not lost else "MISSED"]
    return tuple(cells)


def growth(runs: Runs) -> Iterable[str]:
    """How a task's cost grows with the fan-out."""
    for (workload, name), own in runs.items():
        kind, _, size = workload.partition("@")
        small = runs.get((kind, name), {})
        if not size or not name.startswith("eventflow"):
            continue
        ratios = [
            line["wall_s"] / line["n"] / (small[turn]["wall_s"] / small[turn]["n"])
            for turn, line in own.items()
            if turn in small
        ]
        if ratios:
            found = statistics.median(ratios)
            said = verdict(found, (PER_TASK_GOAL, None))
            yield f"{workload} {name}: a task costs {found:.2f} × that of {kind}; goal {PER_TASK_GOAL}: {said}"


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as Markdown."""
    head = (
        "workload",
        "system",
        "durability",
        "wall s",
        "min–max",
        "µs a task",
        "RSS MB",
        "ratio",
        "goal (aim)",
        "",
    )
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--workloads", default="W1,W2,W2@10000,W3,W4,W5,W6,W7,W8,W9,cached,replay,bitbake,build"
    )
    parser.add_argument("--systems", default="floor,ideal,eventflow,joblib")
    parser.add_argument("--timeout", type=float, default=150, help="seconds for one run")
    parser.add_argument("--out", type=Path, help="append every run's line to this file")
    runs = measure(parser.parse_args())
    print(table([row(workload, name, runs) for workload, name in runs]))
    for line in growth(runs):
        print(line)


if __name__ == "__main__":
    main()

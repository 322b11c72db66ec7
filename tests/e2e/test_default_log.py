"""Where runs go that name no log, and what becomes of the handle they share."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eventflow import LogUnusable, MemoryLog, SQLiteLog, flow, open_log, replay, state_of, task
from eventflow.executors import limit
from eventflow.executors.threads import THREADS, shared_pool
from eventflow.logs.open import shared_log
from eventflow.logs.urls import InvalidLogURL, check_url, default_url
from eventflow.project import InvalidSetting
from eventflow.projections import Runs
from eventflow.result import DeserializationError


@task
async def add(a: int, b: int) -> int:
    """One step."""
    return a + b


@flow
def sums(a: int) -> int:
    """Two steps."""
    return add(add(a, 1), 2)


@dataclass
class Day:
    """A declared type."""

    name: str


@task
async def day() -> Day:
    """A value that needs its declared type."""
    return Day("monday")


@flow
def dated() -> Day:
    """One task."""
    return day()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of somebody who has set nothing; deep in a repository."""
    (tmp_path / "repo/.git").mkdir(parents=True)
    here = tmp_path / "repo/a/b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.delenv("EVENTFLOW_LOG")
    return tmp_path / "repo"


def files_in(folder: Path) -> list[Path]:
    """All files and folders below a folder."""
    return sorted(folder.rglob("*"))


def test_without_any_setting_it_is_a_file_here(project: Path) -> None:
    """The first run makes `.eventflow/log.db` in the current folder, out of the repository's sight."""
    state = asyncio.run(sums.run(1))
    assert state.is_successful()
    folder = project / "a/b/.eventflow"
    assert (folder / "log.db").exists()
    assert (folder / ".gitignore").read_text() == "*\n"


def test_a_folder_further_up_is_found_up_to_the_repository(project: Path) -> None:
    """The nearest `.eventflow` counts, that of the repository's root included, none above it."""
    (project.parent / ".eventflow").mkdir()
    assert default_url() == f"sqlite:///{project}/a/b/.eventflow/log.db"
    (project / ".eventflow").mkdir()
    os.environ["EVENTFLOW_LOG"] = ""  # another setting, so it is read anew
    assert default_url() == f"sqlite:///{project}/.eventflow/log.db"


def test_the_project_file_and_the_variable_win(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`[tool.eventflow]` names a file beside itself; the variable goes before it."""
    (project / "pyproject.toml").write_text('[tool.eventflow]\nlog = "sqlite:///logs/all%20runs.db"\n')
    (project / "logs").mkdir()
    asyncio.run(sums.run(1))
    assert (project / "logs/all runs.db").exists()
    monkeypatch.setenv("EVENTFLOW_LOG", "sqlite:///mine.db")
    asyncio.run(sums.run(1))
    assert (project / "a/b/mine.db").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tool.eventflow]\nlogs = "x"', "'logs' is no setting"),
        ("[tool.eventflow]\nlog = 3", "log = 3 is not text"),
        ('[tool.eventflow]\nlog = "runs.db"', "names no log; a file is written sqlite:///runs.db"),
        ("[tool.eventflow", "cannot be read: "),
    ],
)
def test_a_wrong_project_file_is_named(project: Path, text: str, said: str) -> None:
    """The error of a wrong setting says in which file it stands."""
    (project / "pyproject.toml").write_text(text)
    with pytest.raises(InvalidLogURL, match=said) as caught:
        default_url()
    assert "pyproject.toml" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["runs.db", "sqlite://runs.db", "sqlite:///", "mysql://x/y", "postgresql://h/db", "sqlite:///a?b=1", ""],
)
def test_what_names_no_log_is_refused_before_anything_runs(url: str) -> None:
    """A URL that names no log is an error of the options, with the spelling that would work."""
    with pytest.raises(InvalidLogURL, match=r"sqlite:///|%3F"):
        sums.options(log=url)
    with pytest.raises(InvalidLogURL):
        check_url(url, "here")


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("memory", "is written memory:"),
        ("sqlite:", "is written sqlite:///runs.db"),
        ("sqlite://x.db", "is written sqlite:///x.db"),
        ("sqlite:/x.db", "is written sqlite:///x.db in the current folder, or sqlite:////x.db from the root"),
    ],
)
def test_a_url_that_is_nearly_right_is_answered_with_the_right_one(url: str, meant: str) -> None:
    """The URL that was probably meant, not the wrong one with a prefix."""
    with pytest.raises(InvalidLogURL, match=f"{re.escape(meant)}$"):
        check_url(url, "here")


async def test_runs_share_one_handle_of_a_log(tmp_path: Path) -> None:
    """Runs of one event loop on one file use one handle, however the file is spelled."""
    url = f"sqlite:///{tmp_path}/x.db"
    first = await shared_log(url)
    assert isinstance(first, SQLiteLog)
    assert await shared_log(f"sqlite:///{tmp_path}/./x.db") is first
    assert await shared_log("memory:") is await shared_log()
    states = await asyncio.gather(*(sums.options(log=url).run(i) for i in range(5)))
    assert all(state.is_successful() for state in states)
    async with open_log(url) as log:
        assert log is not first
        assert len(Runs.of((await replay(log, Runs())).state)) == 5


async def test_looking_makes_no_log(tmp_path: Path) -> None:
    """With the URL of a log that does not exist, looking at a run is an error, and creates nothing."""
    url = f"sqlite:///{tmp_path}/x.db"
    with pytest.raises(LogUnusable, match=r"there is no log .*x\.db"):
        await sums.options(log=url, run_id="r", wait=False).run()
    with pytest.raises(LogUnusable, match=r"there is no log .*x\.db"):
        await state_of("r", log=url)
    assert files_in(tmp_path) == []


async def test_looking_writes_nothing(tmp_path: Path) -> None:
    """A run of another process is seen, its large and pickled values open, and no lock or file is made."""
    boxed_value = re.compile("x+")  # only a pickle keeps it

    @task
    async def large() -> list[int]:
        return list(range(50_000))

    @task
    async def boxed() -> object:
        return boxed_value

    @flow
    def both() -> list[object]:
        return [large(), boxed()]

    async with open_log(f"sqlite:///{tmp_path}/x.db") as log:
        await both.options(log=log, run_id="r").run()
    files = files_in(tmp_path)
    url = f"sqlite:///{tmp_path}/x.db"
    assert await both.options(log=url, run_id="r", wait=False).value() == [list(range(50_000)), boxed_value]
    state = await state_of("r", log=url)
    assert state.result["large"].result == list(range(50_000))
    assert files_in(tmp_path) == files


def test_a_state_is_read_after_its_loop_and_log_have_ended(tmp_path: Path) -> None:
    """`.result` opens large values from the file when the log has long been closed."""

    @task
    async def large() -> list[int]:
        return list(range(50_000))

    @flow
    def one() -> list[int]:
        return large()

    state = asyncio.run(one.options(log=f"sqlite:///{tmp_path}/x.db").run())
    assert state.result["large"].result == list(range(50_000))
    assert not (tmp_path / "x.db-wal").exists()  # the last connection folded it into the file


async def test_open_log_opens_and_closes(tmp_path: Path) -> None:
    """The block's log works in it and is closed after it; the memory log stays."""
    async with open_log(f"sqlite:///{tmp_path}/x.db") as log:
        await sums.options(log=log).run(1)
    with pytest.raises(Exception, match="was closed"):
        await log.head()
    async with open_log() as memory:
        assert isinstance(memory, MemoryLog)
    await memory.head()


async def test_open_log_without_its_block_says_how_to_write_it() -> None:
    """A forgotten `async with` is an error with the fix, in Python and as an option of a run."""
    log: Any = open_log("memory:")
    with pytest.raises(AttributeError, match=r"no 'read': write `async with open_log\(\.\.\.\) as log:`"):
        await replay(log, Runs())
    with pytest.raises(TypeError, match=r"open_log.*is no log"):
        sums.options(log=log)


async def test_a_value_that_needs_its_type_names_the_call_that_reads_it() -> None:
    """Without the flow's code, a value of a declared class says how to read it; with the flow it opens."""
    log = MemoryLog()
    await dated.options(log=log, run_id="a").run()
    state = await state_of("a", log=log)
    with pytest.raises(
        DeserializationError,
        match=r"needs the declared type.*FLOW\.options\(run_id=\.\.\., wait=False\)\.run\(\)",
    ):
        _ = state.result["day"].result
    state = await dated.options(log=log, run_id="a", wait=False).run()
    assert state.result["day"].result == Day("monday")


async def test_open_log_says_at_once_that_a_file_is_not_ours(tmp_path: Path) -> None:
    """A file that cannot be a log is refused on entering the block."""
    (tmp_path / "x.db").write_text("not a database, but long enough to look at" * 50)
    with pytest.raises(Exception, match=r"x\.db"):
        async with open_log(f"sqlite:///{tmp_path}/x.db"):
            pass


def test_a_process_with_the_default_log_ends_by_itself(tmp_path: Path) -> None:
    """Also after an exception that nobody caught: nothing hangs, nothing is left open."""
    script = (
        "import asyncio, eventflow\n"
        "@eventflow.task\n"
        "async def one() -> int: return 1\n"
        "@eventflow.flow\n"
        "def f() -> int: return one()\n"
        "async def main():\n"
        "    await f.run()\n"
        "    raise SystemExit(7)\n"
        "asyncio.run(main())\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "EVENTFLOW_LOG"}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore:SQLite", "-c", script],
        cwd=tmp_path,
        env=env,
        timeout=30,
        capture_output=True,
        text=True,
        check=False,
    )
    # A busy machine adds lines such as "Executing <Task …> took 0.148 seconds", which is asyncio's debug mode.
    said = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, said) == (7, [])
    assert (tmp_path / ".eventflow/log.db").exists()
    assert not (tmp_path / ".eventflow/log.db-wal").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("tool = 3", None), ('[tool]\neventflow = "x"', "is no table"), ("[tool.eventflow]\n", None)],
)
def test_odd_tables_are_no_crash(project: Path, text: str, said: str | None) -> None:
    """What is no table of ours is passed by, or named."""
    (project / "pyproject.toml").write_text(text)
    if said is None:
        assert default_url().endswith("/.eventflow/log.db")
    else:
        with pytest.raises(InvalidLogURL, match=said):
            default_url()


async def test_a_folder_that_cannot_be_made_is_named(project: Path) -> None:
    """Where `.eventflow` is in the way of itself, the error says so and names the variable."""
    (project / "a/b/.eventflow").symlink_to(project / "nowhere/at/all")
    with pytest.raises(
        InvalidLogURL, match=r"\.eventflow, where the log should be, cannot be made .*EVENTFLOW_LOG"
    ):
        await sums.run(1)


async def test_a_folder_that_is_gone_has_no_default_log(project: Path) -> None:
    """Who stands in a deleted folder is told, not shown a bare FileNotFoundError."""
    gone = project / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidLogURL, match="the current folder is gone"):
        await sums.run(1)


def test_a_loop_that_is_closed_by_hand_leaves_no_thread_and_no_file(tmp_path: Path) -> None:
    """`loop.close()` alone is enough, however many loops there are, and whatever was left undone in them."""
    threads = set(threading.enumerate())

    def open_files() -> list[str]:
        folder = Path("/proc/self/fd")
        found = [str(file.readlink()) for file in folder.iterdir() if file.is_symlink()]
        return [name for name in found if name.startswith(str(tmp_path))]

    for number in range(3):
        loop = asyncio.new_event_loop()
        options = sums.options(log=f"sqlite:///{tmp_path}/runs.db", run_id=f"r{number}")
        state = loop.run_until_complete(options.run(number))
        assert state.is_successful()
        loop.close()
        loop.close()
        for thread in set(threading.enumerate()) - threads:
            thread.join(10)  # it may be at its last instruction
            assert not thread.is_alive()
        if sys.platform == "linux":
            assert open_files() == []


@pytest.mark.parametrize(
    ("project_says", "variable", "expected"),
    [("", "", THREADS), ("threads = 5", "", 5), ("threads = 5", "7", 7)],
)
def test_the_number_of_threads_is_a_setting(
    project: Path, monkeypatch: pytest.MonkeyPatch, project_says: str, variable: str, expected: int
) -> None:
    """`EVENTFLOW_THREADS` goes before `threads` in the project's table; a run gives its pool that size."""
    (project / "pyproject.toml").write_text(f'[tool.eventflow]\nlog = "memory:"\n{project_says}\n')
    monkeypatch.setenv("EVENTFLOW_THREADS", variable)
    limit._limit_of_project.cache_clear()
    asyncio.run(sums.run(1))
    assert limit.thread_limit() == shared_pool(expected).limit == expected


@pytest.mark.parametrize("said", ["0", "-1", "many", "1.5", "1000000"])
def test_a_wrong_number_of_threads_is_named(
    said: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the variable or the file that says it, and with the numbers that there are."""
    monkeypatch.setenv("EVENTFLOW_THREADS", said)
    with pytest.raises(InvalidSetting, match=r"EVENTFLOW_THREADS: .* from 1 to 10000"):
        limit.thread_limit()
    monkeypatch.delenv("EVENTFLOW_THREADS")
    limit._limit_of_project.cache_clear()
    (project / "pyproject.toml").write_text(f'[tool.eventflow]\nthreads = "{said}"')
    with pytest.raises(InvalidSetting, match=r"pyproject\.toml"):
        limit.thread_limit()

"""The commands, as a person or a script uses them: real processes, one folder each."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventflow import state_of
from eventflow.states import Pending
from tests.e2e.commands import command, document, environment
from tests.logs import breaking_sqlite

FLOWS = """
import asyncio
from eventflow import Flow, flow, task

@task
async def add(x: int, y: int = 1) -> int:
    return x + y

@task
async def boom(x: int) -> int:
    raise ValueError(f"no {x}")

@task
async def nap(x: int) -> int:
    with open("started", "a") as file:
        file.write("nap ")
    while not __import__("os").path.exists("go"):
        await asyncio.sleep(0.02)
    return x

@flow
def good(n: int = 3, name: str = "a") -> int:
    return add(add(n))

@flow
def bad(n: int = 1) -> int:
    return boom(add(n))

@flow
def slow() -> int:
    return nap(add(1))

with Flow("spelled") as block:
    add(1)

if __name__ == "__main__":
    raise SystemExit("ran as a script")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with flows of its own."""
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


@pytest.mark.parametrize("spec", ["flows:good", "flows.py:good"])
def test_a_flow_runs_from_a_module_or_a_file_and_is_read_back(folder: Path, spec: str) -> None:
    """Value to stdout, talk to stderr; runs, show, a past moment and events agree with it."""
    done = command("run", spec, "-p", "n=4", "-p", "name=7", "--run-id", "first", cwd=folder)
    assert done.stdout == "6\n"
    assert "first success, 2 of 2 tasks" in done.stderr
    assert done.stderr.count("warning: ") <= 1
    [row] = document("runs", cwd=folder)
    assert (row["run"], row["flow"], row["state"], row["done"], row["tasks"]) == (
        "first",
        "good",
        "success",
        2,
        2,
    )
    now = command("show", "fi", cwd=folder)
    assert "as of event 7 of 7" in now.stdout
    assert now.stderr == ""
    past = document("show", "@last", "--at", "4", cwd=folder)
    assert [task["state"] for task in past["tasks"]] == ["Success", "Pending"]
    kinds = [event["kind"] for event in document("events", "first", cwd=folder)]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert "1 to 7" in command("show", "first", "--at", "8", cwd=folder, code=2).stderr
    again = document("resume", "first", cwd=folder)
    assert (again["state"], again["value"]) == ("success", 6)


def test_a_failed_run_exits_with_1_and_is_rerun_from_another_folder(folder: Path) -> None:
    """A file's flow is found again by what the log recorded, wherever the command is given."""
    failed = command("run", "flows.py:bad", "--run-id", "b1", cwd=folder, code=1)
    assert "boom: attempt 1 failed: ValueError: no 2" in failed.stderr
    assert "2 done; boom: 1 failed" in failed.stderr
    assert "after fixing it: eventflow rerun b1" in failed.stderr
    listed = command("events", "b1", cwd=folder).stdout
    assert re.search(r"task_succeeded\tadd\t.*body=", listed)
    assert "requires=" not in listed
    at_its_claim = command("show", "b1", "--at", "2", cwd=folder).stdout
    assert "running: started, no task running at this moment" in at_its_claim
    assert "ValueError: no 2" in command("show", "b1", cwd=folder).stdout
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    url = f"sqlite:///{folder}/.eventflow/log.db"
    text = FLOWS.replace('raise ValueError(f"no {x}")', "return x")
    (folder / "flows.py").write_text(text)
    done = document("rerun", "b1", "--log", url, "--run-id", "b2", cwd=elsewhere)
    assert (done["run"], done["state"], done["value"]) == ("b2", "success", 2)
    assert list(elsewhere.iterdir()) == []
    several = command("show", "b", "--log", url, cwd=elsewhere, code=2).stderr
    assert "b1, b2" in several


def test_show_of_a_task_prints_the_traceback_of_its_failure(folder: Path) -> None:
    """The frames, the exception and its cause; `show RUN` prints the command, quoted for the shell."""
    (folder / "causes.py").write_text(
        "from eventflow import flow, task\n"
        "@task\ndef clean(row: int) -> float:\n"
        "    try:\n        return 1 / row\n"
        "    except ZeroDivisionError as error:\n        raise ValueError(f'bad row {row}') from error\n"
        "@flow\ndef rows() -> list[float]:\n    return clean.map([1, 0])\n"
    )
    command("run", "causes.py:rows", "--run-id", "r", cwd=folder, code=1)
    assert command("show", "r", cwd=folder).stdout.endswith("its traceback: eventflow show r 'clean[1]'\n")
    lines = command("show", "r", "clean[1]", cwd=folder).stdout.splitlines()
    assert lines[0] == "r clean[1]  Failed: ValueError: bad row 0"
    assert (lines[1], lines[-1]) == ("Traceback (most recent call last):", "ValueError: bad row 0")
    assert lines.index("    return 1 / row") < lines.index("ZeroDivisionError: division by zero")
    failure = document("show", "r", "clean[1]", cwd=folder)["failure"]
    assert (failure["type"], failure["cause"]["type"]) == ("ValueError", "ZeroDivisionError")
    assert "in clean" in failure["traceback"]
    assert document("show", "r", "clean[0]", cwd=folder)["failure"] is None
    assert "did you mean 'clean'" in command("show", "r", "cleam", cwd=folder, code=3).stderr
    assert document("show", "r", "clean", "--at", "2", cwd=folder)["state"] == "Pending"
    assert "events 1 to 8" in command("show", "r", "clean", "--at", "9", cwd=folder, code=2).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "flows:goood"], "did you mean 'good'"),
        (["run", "flow:good"], "did you mean 'flows'"),
        (["run", "flowz.py:good"], "did you mean 'flows.py'"),
        (["run", "flows"], "not exactly one flow"),
        (["run", "broken:good"], "ZeroDivisionError"),
        (["run", "flows:good", "-p", "m=1"], "no parameter 'm'"),
        (["run", "flows:good", "-p", "n=many"], "'n'"),
        (["run", "flows:good", "-p", "n"], "is not NAME=VALUE"),
        (["run", "flows:good", "--run-id", "a b"], "--run-id 'a b'"),
        (["run", "flows:good", "--log", "runs.db"], "names no log"),
        (["event", "x"], "there is no command 'event'; did you mean 'events'?"),
        (["log"], "there is no command 'log'; there is 'cache', 'demo', 'events'"),
    ],
)
def test_wrong_usage_exits_with_2_says_what_to_do_and_makes_no_log(
    folder: Path, words: list[str], said: str
) -> None:
    """The message names the thing and the fix; nothing is left behind."""
    (folder / "broken.py").write_text("1 / 0\n")
    assert said in command(*words, cwd=folder, code=2).stderr
    assert not (folder / ".eventflow").exists()


def test_reading_makes_no_log_and_exits_with_5_where_there_is_none(folder: Path) -> None:
    """Neither the file nor its folder appears; what is no log is told."""
    for words in (["runs"], ["show", "x"], ["events", "x"], ["resume", "x"]):
        said = command(*words, cwd=folder, code=5).stderr
        assert re.search(r"there is no log .*log\.db .*: run a flow here first, change to the folder", said)
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == ["flows.py"]
    (folder / "text.db").write_text("no log at all, but some text " * 100)
    assert "text.db" in command("runs", "--log", "sqlite:///text.db", cwd=folder, code=5).stderr


def test_an_unknown_run_exits_with_3_and_a_changed_one_with_6(folder: Path) -> None:
    """The nearest id is named; other parameters of the same run are refused."""
    command("run", "flows:good", "--run-id", "nightly", cwd=folder)
    assert "did you mean 'nightly'" in command("show", "nigthly", cwd=folder, code=3).stderr
    missing = command("show", "zzz", cwd=folder, code=3).stderr
    assert f"no run 'zzz' in the log {folder}/.eventflow/log.db; see `eventflow runs`" in missing
    missing = command("cache", "explain", "nightly", "zzz", cwd=folder, code=3).stderr
    assert "the run has no task 'zzz'; there is 'n', 'name', 'add', 'add-2'" in missing
    command("run", "flows:good", "--run-id", "nightly", "-p", "n=9", cwd=folder, code=6)


def test_an_interrupted_run_exits_with_130_and_the_line_it_prints_resumes_it(folder: Path) -> None:
    """Ctrl-C leaves the run resumable."""
    words = [
        sys.executable,
        "-m",
        "eventflow",
        "run",
        "flows:slow",
        "--run-id",
        "s1",
        "--log",
        "sqlite:///s.db",
    ]
    child = subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while not (folder / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=20)[1]
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130, said
    assert "Traceback" not in said
    line = said.rpartition("resume it with: eventflow ")[2].split()
    assert line == ["resume", "s1", "--log", "sqlite:///s.db"]
    (folder / "go").touch()
    assert command(*line, cwd=folder).stdout == "2\n"
    assert (folder / "started").read_text().split() == ["nap", "nap"]


def test_help_and_version_load_neither_rich_nor_sqlite(folder: Path) -> None:
    """What completion waits for stays small."""
    for word in ("--version", "--help"):
        code = (
            "import sys; from eventflow.cli import main\n"
            f"sys.argv = ['eventflow', {word!r}]\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "print(sorted({'rich', 'aiosqlite', 'sqlite3'} & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"


def test_without_the_extra_it_says_what_to_install() -> None:
    """A missing click is no traceback."""
    code = "import sys; sys.modules['click'] = None; from eventflow.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'PATH/TO/eventflow[cli]'" in done.stderr


def test_colour_is_for_terminals_and_as_the_variables_say(folder: Path) -> None:
    """`FORCE_COLOR` colours a pipe, `NO_COLOR` wins, JSON never has any."""
    command("run", "flows:good", "--run-id", "c", cwd=folder)
    assert "\x1b[" not in command("runs", cwd=folder).stdout
    assert "\x1b[" in command("runs", cwd=folder, FORCE_COLOR="1").stdout
    assert "\x1b[" not in command("runs", cwd=folder, FORCE_COLOR="1", NO_COLOR="1").stdout
    assert "\x1b[" not in command("runs", "--json", cwd=folder, FORCE_COLOR="1").stdout


def test_the_children_of_a_map_are_counted_and_their_failures_named(folder: Path) -> None:
    """Progress counts children one by one; `show` tells how many stand where, and each failure."""
    (folder / "maps.py").write_text(
        "from eventflow import flow, task\n"
        "@task\n"
        "async def inverse(x: int) -> float:\n"
        "    return 1 / x\n"
        "@flow\n"
        "def many(xs: list[int]):\n"
        "    return inverse.map(xs)\n"
    )
    said = command("run", "maps:many", "-p", "xs=[1,2,0]", "--run-id", "m", cwd=folder, code=1).stderr
    assert "m failed, 2 of 3 tasks done, 1 failed" in said
    assert "inverse[2]: attempt 1 failed: ZeroDivisionError" in said
    [task] = document("show", "m", cwd=folder)["tasks"]
    assert task["children"] == {"Success": 2, "Failed": 1}
    assert list(task["failures"]) == ["inverse[2]"]
    assert "inverse[2]: ZeroDivisionError" in command("show", "m", cwd=folder).stdout


SCRIPT = """
import asyncio, os, sys
from eventflow import flow, task

@task
async def first() -> int:
    return 1

@task
async def second(n: int) -> int:
    if os.environ.get("HANG"):
        os._exit(9)
    return n + {plus}

@flow
def script() -> int:
    return second(first())

if __name__ == "__main__":
    asyncio.run(script.options(run_id="s").run())
"""


def die_in_the_middle(folder: Path) -> None:
    """Run the script, whose process ends without a word in its second task."""
    script = [sys.executable, "-W", "ignore", "script.py"]
    assert (
        subprocess.run(script, cwd=folder, env=environment(HANG="1"), check=False, timeout=30).returncode == 9
    )


def test_a_run_that_a_script_began_is_resumed_by_the_command(folder: Path) -> None:
    """What `python script.py` ran and a crash cut off is found by its file, and goes on."""
    (folder / "script.py").write_text(SCRIPT.format(plus=1))
    die_in_the_middle(folder)
    assert document("runs", cwd=folder)[0]["state"] == "stopped"  # its events end with a start
    shown = document("show", "s", cwd=folder)
    assert shown["state"] == "stopped"
    assert shown["message"] == "its owner has ended without releasing it"
    assert [task["state"] for task in shown["tasks"]] == ["Success", "Pending"]
    assert shown["tasks"][1]["message"] == "attempt 1 was interrupted"
    state = asyncio.run(state_of("s", log=f"sqlite:///{folder}/.eventflow/log.db"))
    assert type(state) is Pending
    assert "running" not in command("show", "s", cwd=folder).stdout.lower()
    assert command("resume", "s", cwd=folder).stdout == "2\n"
    assert document("runs", cwd=folder)[0]["state"] == "success"


def test_a_changed_flow_is_told_in_a_table_and_exits_with_6(folder: Path) -> None:
    """The code of a finished task changed: refused with a table, gone on with on request."""
    (folder / "script.py").write_text(SCRIPT.format(plus=1))
    die_in_the_middle(folder)
    (folder / "script.py").write_text(SCRIPT.format(plus=5).replace("return 1", "return 10"))
    refused = command("resume", "s", cwd=folder, code=6)
    assert re.search(r"first +[0-9a-f]{8} +[0-9a-f]{8}", refused.stderr)
    assert command("resume", "s", "--keep-changed", cwd=folder).stdout == "6\n"


def test_a_damaged_log_exits_with_5_and_names_the_record(folder: Path) -> None:
    """What is broken in a log is told in one line, by the command that meets it."""
    (folder / "script.py").write_text(SCRIPT.format(plus=1))
    command("run", "script.py:script", "--run-id", "s", cwd=folder)
    breaking_sqlite.execute(
        folder / ".eventflow/log.db", ("UPDATE event SET body = x'00' WHERE version = 3", ())
    )
    done = command("events", "s", cwd=folder, code=5)
    assert "version 3 of 'run/s'" in done.stderr
    assert "Traceback" not in done.stderr

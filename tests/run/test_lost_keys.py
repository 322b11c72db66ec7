"""A signing key that is lost, unreadable or not one: only what needs it stops, and it can go on once the key is back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from eventflow import Flow, flow, task
from eventflow.events import kind_of
from eventflow.logs.sqlite import SQLiteLog
from eventflow.result import KeyUnavailable, PickleNotTrusted
from eventflow.serializers.signed import open_pickle, sign_pickle
from eventflow.testing.conformance.hooks import write


class Odd:
    """Something that only a pickle keeps."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __getitem__(self, k: int) -> int:
        return self.n + k


@task
async def plain(n: int) -> int:
    """Needs no key."""
    return n + 1


@flow
def sums(n: int) -> int:
    """Needs no key."""
    return plain(plain(n))


def lost(key: Path) -> None:
    """It is gone."""
    key.unlink()


def open_to_all(key: Path) -> None:
    """It is no secret."""
    key.chmod(0o644)


def nonsense(key: Path) -> None:
    """It is no key."""
    key.write_text("zz")


def a_pipe(key: Path) -> None:
    """It would be waited for."""
    key.unlink()
    os.mkfifo(key, 0o600)


def a_folder(key: Path) -> None:
    """It is a folder."""
    key.unlink()
    key.mkdir()


def of_another(key: Path) -> None:
    """It is somebody else's, who laid it there."""
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(key, 12345, -1)


def exchanged(key: Path) -> None:
    """It is another key."""
    key.write_text("ab" * 32)


SPOILT = [lost, open_to_all, nonsense, a_pipe, a_folder, of_another]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for a log."""
    return tmp_path / "log.db"


def key_of(path: Path) -> Path:
    """The key beside a log."""
    return Path(f"{path}.key")


async def sign(path: Path) -> None:
    """Have a key made, and the log know of it."""
    async with SQLiteLog(path) as log:
        assert sign_pickle(Odd(1), log.keyring) is not None
        await log.append(write("run/a", 0, 0))


@pytest.mark.parametrize("spoil", SPOILT)
async def test_runs_without_pickles_need_no_key(path: Path, spoil: Callable[[Path], None]) -> None:
    """They run, resume and are looked at beside a key that cannot be used, and touch it not."""
    await sign(path)
    spoil(key_of(path))
    async with SQLiteLog(path) as log:
        assert await sums.options(log=log, run_id="r").value(n=1) == 3
        assert await sums.options(log=log, run_id="r").value(n=1) == 3
        assert (await sums.options(log=log).rerun("r")).is_successful()


async def test_runs_without_pickles_make_no_key(path: Path) -> None:
    """Where nothing is pickled there is no key."""
    async with SQLiteLog(path) as log:
        assert await sums.options(log=log).value(n=1) == 3
        assert "…" in repr(log.keyring)
    assert not key_of(path).exists()


@pytest.mark.parametrize("spoil", SPOILT)
async def test_what_needs_the_key_says_so(path: Path, spoil: Callable[[Path], None]) -> None:
    """Signing and opening raise one error that names the file and what to do; none waits."""
    await sign(path)
    async with SQLiteLog(path) as log:
        signed = sign_pickle(Odd(1), log.keyring)
    assert signed is not None
    spoil(key_of(path))
    async with SQLiteLog(path) as log:
        with pytest.raises(KeyUnavailable, match=str(key_of(path))):
            sign_pickle(Odd(1), log.keyring)
    async with SQLiteLog(path) as log:
        with pytest.raises(KeyUnavailable):
            open_pickle(*signed, log.keyring)


async def test_a_key_of_another_user_is_refused(path: Path) -> None:
    """With advice to delete one that came with somebody else's log."""
    await sign(path)
    of_another(key_of(path))
    async with SQLiteLog(path) as log:
        with pytest.raises(
            KeyUnavailable, match=r"belongs to another user \(uid 12345\).*delete it if it came with"
        ):
            sign_pickle(Odd(1), log.keyring)


async def test_no_new_key_is_made_in_place_of_a_lost_one(path: Path) -> None:
    """The log knows what key it had: a new one would be lost with all that it signed when the old is put back."""
    await sign(path)
    async with SQLiteLog(path) as log:
        (known,) = (await log.info()).keys
    key_of(path).unlink()
    async with SQLiteLog(path) as log:
        with pytest.raises(KeyUnavailable, match=f"{known}.*restore it.*openssl rand"):
            sign_pickle(Odd(1), log.keyring)
        assert not key_of(path).exists()
        key_of(path).write_text("cd" * 32)
        key_of(path).chmod(0o600)
        assert sign_pickle(Odd(1), log.keyring) is not None


class Meeting:
    """A flow that is interrupted with a pickled value recorded, and what its bodies do."""

    def __init__(self, kind: str) -> None:
        self.made = 0
        self.used: list[int] = []
        self.reached = asyncio.Event()
        self.is_open = False
        self.flow = self._build(kind)

    async def gate(self, odd: Any) -> Any:
        """Wait to be interrupted, the first time."""
        if not self.is_open:
            self.reached.set()
            await asyncio.sleep(3600)
        return odd

    def _build(self, kind: str) -> Flow[..., Any]:
        meeting = self

        @task
        async def make() -> Odd:
            meeting.made += 1
            return Odd(5)

        @task
        async def many() -> list[Odd]:
            return [Odd(5)]

        @task
        async def wait() -> int:
            await meeting.gate(0)
            return 0

        @task
        async def use(odd: Odd) -> int:
            meeting.used.append(odd.n)
            return odd.n

        @task
        def use_in_thread(odd: Odd) -> int:
            meeting.used.append(odd.n)
            return odd.n

        @task
        async def use_part(n: int) -> int:
            meeting.used.append(n)
            return n

        @task
        def make_late() -> Odd:
            meeting.used.append(9)
            return Odd(9)

        @flow(name=f"meeting-{kind}")
        def made() -> Any:
            first, gate = make(), wait()
            match kind:
                case "async":
                    return use.after(gate)(first)
                case "thread":
                    return use_in_thread.after(gate)(first)
                case "part":
                    return use_part.after(gate)(first[1])
                case "map":
                    return use.after(gate).map(many())
                case _:
                    return make_late.after(gate, first)()

        return made

    async def interrupt(self, log: SQLiteLog) -> None:
        """Run it until the value is recorded, then interrupt it."""
        running = asyncio.ensure_future(self.flow.options(log=log, run_id="r").run())
        await self.reached.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        self.is_open = True


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        *product(["async", "thread", "part", "map"], [lost, of_another, exchanged]),
        *product(["sign"], [lost, of_another]),  # to sign, any sound key will do
    ],
)
async def test_a_key_that_is_lost_on_resume(path: Path, kind: str, spoil: Callable[[Path], None]) -> None:
    """The resumed run ends with the named error and no task has failed; with the key it goes on from there."""
    meeting = Meeting(kind)
    async with SQLiteLog(path) as log:
        await meeting.interrupt(log)
    good = key_of(path).read_text()
    spoil(key_of(path))
    async with SQLiteLog(path) as log:
        for _ in range(2):
            with pytest.raises(KeyUnavailable):
                await meeting.flow.options(log=log, run_id="r").run()
        kinds = [kind_of(record.event) async for record in log.read(stream="run/r")]
        assert not {"task_failed", "run_finished", "task_blocked"} & set(kinds)
        assert kinds[-1] == "run_released"
        assert not await log.is_live("r")
    key_of(path).unlink(missing_ok=True)
    key_of(path).write_text(good)
    key_of(path).chmod(0o600)
    meeting.used.clear()
    async with SQLiteLog(path) as log:
        state = await meeting.flow.options(log=log, run_id="r").run()
        assert state.is_successful(), state.message
    assert meeting.made == 1
    assert meeting.used == {"part": [6], "sign": [9]}.get(kind, [5])


async def test_a_pickle_that_was_altered_is_no_want_of_a_key(path: Path) -> None:
    """Another attempt would be refused as well, so it stays what fails its task."""
    async with SQLiteLog(path) as log:
        codec, data = sign_pickle(Odd(1), log.keyring) or ("", b"")
        with pytest.raises(PickleNotTrusted) as caught:
            open_pickle(codec, data[:-1] + b"?", log.keyring)
    assert not isinstance(caught.value, KeyUnavailable)


async def test_a_file_key_is_not_asked_for_where_the_variable_has_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spoilt file is nothing where `EVENTFLOW_KEY` is set; a variable that is no key stops only what needs it."""
    await sign(path)
    key_of(path).chmod(0o644)
    monkeypatch.setenv("EVENTFLOW_KEY", "ab" * 32)
    async with SQLiteLog(path) as log:
        assert sign_pickle(Odd(1), log.keyring) is not None
    monkeypatch.setenv("EVENTFLOW_KEY", "abc")
    async with SQLiteLog(path) as log:
        assert await sums.options(log=log).value(n=1) == 3
        with pytest.raises(KeyUnavailable, match="EVENTFLOW_KEY"):
            sign_pickle(Odd(1), log.keyring)

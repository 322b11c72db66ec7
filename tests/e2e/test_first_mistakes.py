"""What a newcomer gets wrong in the first hour, and the words that put it right."""

from __future__ import annotations

import pytest

from eventflow import MemoryLog, flow, open_run, replay, task


@task
def double(x: int) -> int:
    """Any task."""
    return 2 * x


@flow
def doubled(x: int) -> int:
    """Any flow."""
    return double(x)


async def test_the_class_of_a_log_is_no_log() -> None:
    """A forgotten `()` is named where the option is given, before anything runs."""
    with pytest.raises(TypeError, match=r"flow 'doubled', options: log=MemoryLog is a class"):
        doubled.options(log=MemoryLog)  # type: ignore[arg-type]


async def test_a_misspelt_option_is_answered_with_the_right_one() -> None:
    """Before anything runs."""
    with pytest.raises(
        TypeError, match=r"flow 'doubled', options: there is no option 'run'; did you mean 'run_id'"
    ):
        doubled.options(run="a")  # type: ignore[call-arg]


async def test_a_view_of_a_run_folded_over_the_whole_log_says_what_was_forgotten() -> None:
    """Without `stream=` the first record is another stream's, and the error gives the call to write."""
    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(x=1)
    view = await open_run(log, "a")
    with pytest.raises(ValueError, match=r"view of run 'a' .* stream=view\.stream"):
        await replay(log, view)
    assert (await replay(log, view, stream=view.stream)).position == await log.head()

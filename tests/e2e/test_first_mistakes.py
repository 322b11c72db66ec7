"""What a newcomer gets wrong in the first hour, and the words that put it right."""

from __future__ import annotations

from typing import Any

import pytest

from eventflow import MemoryLog, flow, open_run, replay, task
from eventflow.views.sequences import length_of


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


@task
def calls_a_task(x: int) -> int:
    """A body that calls a task."""
    return double(x)


@task
async def maps_a_task(x: int) -> list[int]:
    """A body that maps a task."""
    return waiting.map([x])


@task
async def waiting(x: int) -> int:
    """An async task."""
    return x


async def test_a_task_called_in_a_body_is_answered_with_its_function() -> None:
    """The message names the body, and the call of the plain function, awaited if it is async."""

    @flow
    def both(x: int) -> list[object]:
        return [calls_a_task(x), maps_a_task(x)]

    state = await both.options(log=MemoryLog()).run(x=1)
    called, mapped = state.result["calls_a_task"].message, state.result["maps_a_task"].message
    assert "task 'double' was called in the body of task 'calls_a_task', and a body calls no tasks" in called
    assert "call its plain function as double.fn(x), or" in called
    assert "as [await waiting.fn(x) for ... in ...], or" in mapped


def test_options_in_the_wrong_place_are_answered_with_the_right_one() -> None:
    """An option of a run given to `@flow`, an unknown option of `@flow`, and `cache=` of a task."""
    decorate: Any = flow
    with pytest.raises(
        TypeError, match=r"@flow: log= is an option of a run: write FLOW\.options\(log=\.\.\.\)"
    ):
        decorate(log="memory:")
    with pytest.raises(TypeError, match="@flow: there is no option 'names'; did you mean 'name'"):
        decorate(names="x")
    with pytest.raises(TypeError, match="there is no option 'cache'; did you mean 'cache_for'"):
        task(cache=True)(lambda: 1)  # type: ignore[call-arg]


def test_too_many_arguments_are_counted_in_words() -> None:
    """One argument for a flow that takes none, and an element that cannot be mapped over."""

    @flow
    def alone() -> int:
        return double(1)

    run: Any = alone.built.bind
    with pytest.raises(TypeError, match="flow 'alone' takes no parameters, but 1 was given"):
        run((1,), {})
    with pytest.raises(TypeError, match="cannot map over an int"):
        length_of(3)

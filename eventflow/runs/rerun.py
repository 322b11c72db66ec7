"""The request for a rerun: a new run that keeps the successes of an old one."""

from __future__ import annotations

from eventflow.events import Origin
from eventflow.fingerprints.type_defs import Difference
from eventflow.graph import Graph, ParameterNode
from eventflow.history.rerun import kept_results
from eventflow.machine import Phase
from eventflow.ports import EventLog, Value
from eventflow.projections import open_run, read_graph, read_graphs
from eventflow.result import Inline, Payload, Result, ResultError, identical
from eventflow.runner.compatibility import of_another_type
from eventflow.runner.ownership import check_known, read_run
from eventflow.runner.request import Request, RunOptions
from eventflow.runner.stored_values import to_store
from eventflow.runs.birth import birth_of
from eventflow.runs.built_flow import BuiltFlow
from eventflow.serializers.recorded import AsRecorded
from eventflow.views.results import fetcher
from eventflow.views.run import RunFacts, RunView
from eventflow.views.run_serializers import serialization_differences

__all__ = ["RunNotFinished", "rerun_request"]


class RunNotFinished(RuntimeError):
    """The operation needs a finished run, and this run can still go on."""


async def rerun_request(built: BuiltFlow, options: RunOptions, log: EventLog, run_id: str) -> Request:
    """Return the request for a new run of a flow that keeps the results of the run `run_id`.

    Raises `RunNotFound`, `RunNotFinished` if the run is live, `UnknownEvents` if a newer version wrote to it, `ValueError`
    for a run of another flow or a target run that exists, and `FlowChanged` or `TypeChanged` if a recorded parameter is
    not a value of today's type.
    """
    old = await open_run(log, run_id)
    facts = await _settled_facts(log, old)
    await _check_known(log, old, facts)
    _check_flow(built, old, facts)
    await _check_types(built, log, old, facts)
    await _check_target(log, options, old)
    parameters, extra_values = _parameters(built, facts)
    return Request(
        options=options,
        entry=built.entry,
        parameters=parameters,
        extra_values=extra_values,
        origin=Origin(old.stream, facts.run.version),
        why="rerun",
        first=await kept_results(log, old, facts, built.plan),
    )


async def _settled_facts(log: EventLog, old: RunView) -> RunFacts:
    """Fold a run that no runner owns; raises `RunNotFinished` if one does."""
    is_live = await log.is_live(old.run_id)
    facts = await read_run(log, old)
    is_live = is_live or await log.is_live(old.run_id)  # it may have begun during the fold
    if is_live and facts.run.phase != Phase.FINISHED:
        raise RunNotFinished(f"run {old.run_id!r} is live: rerun it once it has ended or was released")
    return facts


async def _check_known(log: EventLog, old: RunView, facts: RunFacts) -> None:
    """Refuse a run that a newer version wrote to: by its rules a success may count no more."""
    graphs: dict[str, Graph] = {}
    await read_graphs(log, facts, graphs)
    for recorded in graphs.values():
        facts.note_missing(recorded.requires)
    check_known(facts, old.run_id)


def _check_flow(built: BuiltFlow, old: RunView, facts: RunFacts) -> None:
    recorded = old.plan.graph.name
    if recorded != built.name:
        raise ValueError(f"run {old.run_id!r} is a run of flow {recorded!r}, not of {built.name!r}")
    missing = [
        name
        for name, node in built.graph.parameters.items()
        if name not in facts.parameters and node.required
    ]
    if missing:
        raise ValueError(
            f"run {old.run_id!r} has no value for the parameters {', '.join(missing)} of today's flow"
        )


async def _check_types(built: BuiltFlow, log: EventLog, old: RunView, facts: RunFacts) -> None:
    """Refuse parameters whose declared type has changed, unless the new type takes the very value."""
    then, today = await read_graph(log, facts.flow_at(1)), built.graph
    refused: dict[str, tuple[Difference, ...]] = {}
    for name in today.parameters:
        payload, before = facts.parameters.get(name), then.index.get(name)
        if payload is None or before is None:
            continue
        differences = serialization_differences(then, before, today, today.index[name])
        if differences and not _takes(built, log, name, payload, differences):
            refused[f"parameter {name!r}"] = differences
    if refused:
        raise of_another_type(
            f"run {old.run_id!r} has parameters whose type is another one today",
            refused,
            "begin a new run with these parameters, or rerun it with the types as they were",
        )


def _takes(
    built: BuiltFlow, log: EventLog, name: str, payload: Payload, differences: tuple[Difference, ...]
) -> bool:
    """Whether today's type of a parameter takes a value of the recorded type as it is."""
    serializer = AsRecorded(built.serializer(name, log.keyring), f"parameter {name!r}", differences)
    try:
        value = Result(payload, True, serializer, fetch=fetcher(log.peek)).deserialize().value
        return identical(value, built.convert({name: value}, only_given=True)[name])
    except (ResultError, TypeError):  # today's type refuses it
        return False


async def _check_target(log: EventLog, options: RunOptions, old: RunView) -> None:
    """Refuse a target run that exists, unless it is this very rerun, to be resumed."""
    target = options["run_id"]
    if target is None:
        return
    birth = await birth_of(log, target)
    if birth is not None and (birth.origin is None or birth.origin.stream != old.stream):
        raise ValueError(
            f"run {target!r} exists already: a rerun is a new run, so choose another run_id, or none"
        )


def _parameters(built: BuiltFlow, facts: RunFacts) -> tuple[dict[str, Payload], tuple[Value, ...]]:
    """The recorded parameters, and today's defaults of new ones with the bytes of large ones."""
    parameters: dict[str, Payload] = {}
    extra_values: list[Value] = []
    for name, node in built.graph.parameters.items():
        recorded = facts.parameters.get(name)
        if recorded is not None:
            parameters[name] = recorded
            continue
        parameters[name], extra_value = _default_of(node)
        if extra_value is not None:
            extra_values.append(extra_value)
    return parameters, tuple(extra_values)


def _default_of(node: ParameterNode) -> tuple[Payload, Value | None]:
    assert node.default is not None, "required parameters were checked before"
    payload = node.default.value
    if isinstance(payload, Inline):
        return to_store(payload)
    return payload, None

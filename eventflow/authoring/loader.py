"""Load a flow by the name of its code, or by the entry that a run recorded.

    package.module:flow     imported, with the current folder first on the path
    path/file.py:flow       loaded as the top-level module of that name, with its folder first on the path

The name after the colon may be left out if the module has exactly one flow.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from eventflow.authoring.flows import Flow
from eventflow.suggestions import did_you_mean

__all__ = ["FlowNotLoaded", "load_entry", "load_flow"]


class FlowNotLoaded(Exception):
    """A flow cannot be loaded: its module, its file or the flow itself is missing, or its code raises."""


def load_flow(spec: str) -> Flow[..., Any]:
    """Load the flow that `module:name` or `file.py:name` names, and set its `entry` to that name.

    ```python
    from eventflow.authoring.loader import load_flow

    montage = load_flow("eventflow.demo.montage:montage")
    print(montage.name, len(montage.graph.nodes))
    ```

    ```text
    montage 103
    ```

    Raises `FlowNotLoaded`, with the traceback in its message if importing the code raises.
    """
    location, name = _split(spec)
    module = _load_module(location)
    if not name:
        name = _name_of_only_flow(module, location)
    flow = _flow_named(module, location, name)
    if _is_file(location):
        location = str(Path(location).resolve())
    flow.entry = f"{location}:{name}"
    return flow


def load_entry(entry: str, flow_name: str) -> Flow[..., Any]:
    """Load the flow of a recorded run by its entry, as `eventflow.runs.find.recorded_entry` returns both.

    If the entry is only a file or a module, the flow with that name is loaded from it. Raises `FlowNotLoaded`.
    """
    if entry.startswith("__main__:"):
        raise FlowNotLoaded(
            f"the run was started by a script that recorded only {entry!r}: name the flow's code"
        )
    location, name = _split(entry)
    if name:
        return load_flow(entry)
    for name, flow in _flows_of(_load_module(location)).items():
        if flow.name == flow_name:
            return load_flow(f"{location}:{name}")
    raise FlowNotLoaded(f"{entry} has no flow {flow_name!r} any more: name the flow's code")


def _split(spec: str) -> tuple[str, str]:
    """Split the name of a flow into its module or file, and the flow's name; empty if that is left out."""
    if _is_file(spec):
        return spec, ""
    if ":" not in spec:
        return spec, ""
    location, _, name = spec.rpartition(":")
    return location, name


def _is_file(location: str) -> bool:
    return location.endswith(".py")


def _flows_of(module: ModuleType) -> Mapping[str, Flow[..., Any]]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Flow)}


def _name_of_only_flow(module: ModuleType, location: str) -> str:
    flows = _flows_of(module)
    if len({id(flow) for flow in flows.values()}) == 1:
        return next(iter(flows))
    if not flows:
        raise FlowNotLoaded(f"{location} has not exactly one flow: it has none")
    names = ", ".join(f"{location}:{name}" for name in flows)
    raise FlowNotLoaded(f"{location} has not exactly one flow: name one of {names}")


def _flow_named(module: ModuleType, location: str, name: str) -> Flow[..., Any]:
    # Not `pkgutil.resolve_name`: the name of a script, like `my-flows.py`, need not be an identifier.
    try:
        value = attrgetter(name)(module)
    except AttributeError:
        value = None
    if isinstance(value, Flow):
        return value
    flows = _flows_of(module)
    hint = did_you_mean(name, flows, otherwise=f"its flows: {', '.join(flows) or 'none'}")
    problem = "has no"
    if value is not None:
        problem = f"has a {type(value).__name__}, not a flow, under"
    raise FlowNotLoaded(f"{location} {problem} {name!r}{hint}")


def _load_module(location: str) -> ModuleType:
    try:
        if _is_file(location):
            return _load_file(Path(location).resolve())
        return _import(location)
    except FlowNotLoaded:
        raise
    except Exception as error:
        text = "".join(traceback.format_exception(error)).rstrip()
        raise FlowNotLoaded(f"{location} could not be imported:\n{text}") from error


def _import(name: str) -> ModuleType:
    _put_first_on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists, and imports one that does not
        file = Path(*name.split(".")).with_suffix(".py")
        scripts = [path.stem for path in Path.cwd().glob("*.py")]
        hint = did_you_mean(name, scripts, otherwise=f"neither is there a file {file} here")
        raise FlowNotLoaded(f"there is no module {error.name!r}{hint}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        scripts = [file.name for file in path.parent.glob("*.py")]
        raise FlowNotLoaded(f"there is no file {path}{did_you_mean(path.name, scripts, otherwise='')}")
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(path):
            return loaded
        raise FlowNotLoaded(f"{path}: a module {path.stem!r} is loaded already; rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    _put_first_on_path(path.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _put_first_on_path(folder: Path) -> None:
    if sys.path[0] != str(folder):
        sys.path.insert(0, str(folder))

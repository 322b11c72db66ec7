"""Finding a flow's code: by what a person names, and by the `entry` that a run recorded.

    package.module:flow     imported, the current folder first on the path
    path/file.py:flow       loaded as the top-level module of that name, its folder first on the path

The name after the colon may be left out where there is but one flow.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from eventflow.authoring.flows import Flow
from eventflow.cli.errors import Exit, Trouble
from eventflow.suggestions import did_you_mean

__all__ = ["load_entry", "load_flow"]


def load_flow(spec: str) -> Flow[..., Any]:
    """The flow that `spec` names, its `entry` set so that it is found again; raises `Trouble`."""
    place, name = _split(spec)
    module = _module(place)
    flows = {found: flow for found, flow in vars(module).items() if isinstance(flow, Flow)}
    if not name:
        if len({id(flow) for flow in flows.values()}) != 1:
            which = (
                f"name one of {', '.join(f'{place}:{found}' for found in flows)}" if flows else "it has none"
            )
            raise Trouble(Exit.USAGE, f"{place} has not exactly one flow: {which}")
        name = next(iter(flows))
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Flow):
        hint = did_you_mean(name, flows, otherwise=f"its flows: {', '.join(flows) or 'none'}")
        what = "has no" if found is None else f"has a {type(found).__name__}, not a flow, under"
        raise Trouble(Exit.USAGE, f"{place} {what} {name!r}{hint}")
    found.entry = f"{Path(place).resolve() if _is_file(place) else place}:{name}"
    return found


def load_entry(entry: str, flow_name: str) -> Flow[..., Any]:
    """The flow of a recorded run, by its entry; of an entry that is only a file or module, the flow of that name."""
    if entry.startswith("__main__:"):
        raise Trouble(
            Exit.USAGE,
            f"the run was started by a script, which recorded only {entry!r}: name the code with --flow FILE:FLOW",
        )
    place, name = _split(entry)
    if name:
        return load_flow(entry)
    for name, found in vars(_module(place)).items():
        if isinstance(found, Flow) and found.name == flow_name:
            return load_flow(f"{entry}:{name}")
    raise Trouble(
        Exit.USAGE, f"{entry} has no flow {flow_name!r} any more: name the code with --flow FILE:FLOW"
    )


def _is_file(place: str) -> bool:
    return place.endswith(".py")


def _split(spec: str) -> tuple[str, str]:
    if _is_file(spec):
        return spec, ""
    place, colon, name = spec.rpartition(":")
    return (place, name) if colon else (spec, "")


def _module(place: str) -> ModuleType:
    try:
        return _load_file(Path(place).resolve()) if _is_file(place) else _import(place)
    except Trouble:
        raise
    except Exception as error:
        shown = "".join(traceback.format_exception(error)).rstrip()
        raise Trouble(Exit.USAGE, f"{place} could not be imported:\n{shown}") from error


def _import(name: str) -> ModuleType:
    _put_first(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it imports is not
        file = Path(*name.split(".")).with_suffix(".py")
        scripts = [path.stem for path in Path.cwd().glob("*.py")]
        hint = did_you_mean(name, scripts, otherwise=f"neither is there a file {file} here")
        raise Trouble(Exit.USAGE, f"there is no module {error.name!r}{hint}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        scripts = [script.name for script in path.parent.glob("*.py")]
        hint = did_you_mean(path.name, scripts, otherwise="")
        raise Trouble(Exit.USAGE, f"there is no file {path}{hint}")
    known = sys.modules.get(path.stem)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return known
        raise Trouble(Exit.USAGE, f"{path}: a module {path.stem!r} is loaded already; rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    _put_first(path.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _put_first(folder: Path) -> None:
    if sys.path[0] != str(folder):
        sys.path.insert(0, str(folder))

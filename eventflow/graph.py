"""What was asked, as data: the graph of one flow.

A `Graph` is what `FlowDefined` records, so any run can be folded, drawn and explained without the
user's code.  Nodes stand in the order in which they were built, which is topological: a node refers
only to nodes before it.  A node's *index* is its number on disk; its name is text for people.

There are two kinds of nodes, `ParameterNode` and `TaskNode`.  `node[key]`, unpacked tuples, and lists,
tuples and dicts of nodes are no nodes here but *expressions* inside a task's inputs (`Arg`): they cost
no event, and a value is stored once, under the task that produced it.

    Arg   = Const | Ref | ListOf | TupleOf | DictOf
    Ref   = a node, and a path of keys into its value
    each  = this input is mapped over: one element per child

The leaves of an input (`Ref`s, left to right) are what `TaskStarted.inputs` lists sources for.

The declared types of tasks and parameters are described in `Graph.types`, each once, and named by digest: bytes
that were kept open only as what they were kept as.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Literal, TypeAlias

import msgspec

from eventflow.fingerprints.type_defs import ClassDef, Description, Type
from eventflow.result import Payload
from eventflow.serializers import digest_of

__all__ = [
    "Arg",
    "CachePolicy",
    "Const",
    "Counted",
    "DictOf",
    "Digests",
    "Graph",
    "Input",
    "Key",
    "KeyPart",
    "KeyPartKind",
    "ListOf",
    "Node",
    "ParameterNode",
    "Policy",
    "Ref",
    "TaskDef",
    "TaskNode",
    "TupleOf",
    "TypeDef",
    "consts",
    "described",
    "refs",
    "unequal",
]

Key: TypeAlias = int | str
"""What `node[key]` may be indexed by."""
KeyPartKind: TypeAlias = Literal[
    "code", "result_type", "serializer", "key_function", "counted", "input", "parameter", "answer"
]
"""A cache key is made of the task's code, the type and serializer of its result, the code of its `cache_key`, the
choice of what is counted, each counted input and parameter, and the answer of its `cache_key`."""


class Const(msgspec.Struct, frozen=True, array_like=True, tag="const", gc=False):
    """A value that was known when the flow was built, serialized."""

    value: Payload
    """`Inline` in every graph of this version; a reader raises `ResultNotLoaded` for any other."""


class Ref(msgspec.Struct, frozen=True, array_like=True, tag="ref", gc=False):
    """The value of a node, or of what lies in it under `path`."""

    node: int
    path: tuple[Key, ...] = ()


class ListOf(msgspec.Struct, frozen=True, array_like=True, tag="list"):
    """A list with nodes in it."""

    items: tuple[Arg, ...]


class TupleOf(msgspec.Struct, frozen=True, array_like=True, tag="tuple"):
    """A tuple with nodes in it."""

    items: tuple[Arg, ...]


class DictOf(msgspec.Struct, frozen=True, array_like=True, tag="dict"):
    """A dict with nodes among its values; order is kept."""

    keys: tuple[Key, ...]
    items: tuple[Arg, ...]


Arg: TypeAlias = Const | Ref | ListOf | TupleOf | DictOf


class Input(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One argument of a task: its name, where it comes from, and whether it is mapped over."""

    name: str
    arg: Arg
    each: bool = False


class CachePolicy(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """When a result that was made before may stand for a task's own."""

    namespace: str
    """What shares entries: given, or `module:qualname` of the function."""
    for_us: int = 0
    """How long an entry is good; 0 is for ever."""
    inputs: tuple[str, ...] | None = None
    """Names of the inputs that count; None for all."""
    parameters: tuple[str, ...] | None = ()
    """Names of the flow's parameters that count; None for all."""
    keyed: bool = False
    """Whether the answer of the author's `cache_key` counts."""


class Policy(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a task is run; may change between two processes of one run. Durations in microseconds."""

    retries: int = 0
    """Attempts after the first that failed."""
    retry_delay_us: int = 0
    backoff: str = "fixed"
    """`fixed`, `exponential`, `callable` or `error`; any other word is read as `fixed`."""
    backoff_max_us: int = 0
    """Upper bound of an exponential delay."""
    timeout_us: int = 0
    """Limit of one attempt; 0 is none."""
    share: bool = False
    """Hand values on without copying."""
    cache: CachePolicy | None = None
    """None for a task that is not cached."""


class TaskDef(msgspec.Struct, frozen=True, array_like=True):
    """One task function as the graph knows it; many nodes may share one."""

    name: str
    entry: str
    """`module:qualname`, for people and for finding the code again."""
    code: bytes
    """Digest of the code, or of `version=`; empty when there is none."""
    policy: Policy
    returns: bytes = b""
    """Digest of the declared type of its result, which `Graph.types` describes; empty for none."""
    takes: tuple[tuple[str, bytes], ...] = ()
    """Likewise the arguments that declare a type: name and digest."""
    keeper: bytes = b""
    """Of a task with a serializer of its own: digest of its class and settings."""
    keyer: bytes = b""
    """Of a task with a `cache_key`: digest of that function's code, unless `version=` stands for it."""
    codeless: str = ""
    """Of a cached task: why its code has no digest, so that nothing is ever reused."""

    def cache_key(self, parts: bytes) -> str:
        """The key of a call of this cached task, made of what must be the same and of what it is given.

        The former is here: namespace, code, and the type and serializer that a result opens with. `parts` are 16 bytes each for the
        inputs that count, the parameters that count and the answer of a `cache_key`, in the order of the node's
        inputs and of the policy. Raises `ValueError` for a task that has no keys.
        """
        found = self.begin_key()
        found.update(parts)
        return found.hexdigest()

    def begin_key(self) -> blake2b:
        """What a key of this task is before its parts; to be copied by who makes many."""
        cache = self.policy.cache
        if cache is None or not self.code or self.codeless:
            raise ValueError(f"task {self.name!r} is not cached, so its calls have no keys")
        namespace = cache.namespace.encode("utf-8", "surrogatepass")
        made_of = (self.code, self.returns, self.keeper, self.keyer)
        whole = blake2b(b"eventflow cache key 1 %d %d %d %d " % tuple(map(len, made_of)), digest_size=16)
        whole.update(b"".join(made_of))
        whole.update(msgspec.msgpack.encode((cache.inputs, cache.parameters, cache.keyed)))
        whole.update(b"%d " % len(namespace) + namespace)
        return whole


class ParameterNode(msgspec.Struct, frozen=True, array_like=True, tag="parameter", gc=False):
    """A parameter of the flow."""

    name: str
    required: bool = True
    default: Const | None = None
    annotation: str = ""
    """The declared type as text, for people."""
    declared: bytes = b""
    """Its digest, which `Graph.types` describes; empty for none."""


class TaskNode(msgspec.Struct, frozen=True, array_like=True, tag="task", gc=False):
    """One task in one place of the flow."""

    name: str
    task: int
    """Index into `Graph.tasks`."""
    inputs: tuple[Input, ...] = ()
    after: tuple[int, ...] = ()
    """Nodes that must have finished first, without handing over data."""
    mapped: bool = False
    """One child per element of the `each` inputs."""
    zip_shortest: bool = False
    """Inputs of unequal lengths give as many children as the shortest has elements; else they are an error."""


Node: TypeAlias = ParameterNode | TaskNode
Counted: TypeAlias = tuple[tuple[Input, ...], tuple[str, ...]]
"""What counts in the keys of a cached node: inputs, and names of the flow's parameters."""


class KeyPart(msgspec.Struct, frozen=True, array_like=True):
    """One thing that counts in a cache key."""

    kind: KeyPartKind
    name: str = ""
    """Of an input or of a parameter; empty for the other kinds, which occur once."""


class TypeDef(msgspec.Struct, frozen=True, array_like=True):
    """A declared type, under the digest of its description."""

    digest: bytes
    type: Type
    classes: tuple[int, ...] = ()
    """The classes that it reaches, as indices into `Graph.classes`."""


class Digests(msgspec.Struct, frozen=True, array_like=True):
    """What must agree when a run is resumed: `shape` always, `code` of finished tasks; `policy` may change."""

    shape: bytes
    code: bytes
    policy: bytes


def unequal(task: str, widths: Mapping[str, int]) -> str:
    """The message for inputs of different lengths that a task is mapped over."""
    told = ", ".join(f"{name!r} has {width}" for name, width in widths.items())
    return (
        f"task {task!r} is mapped over inputs of unequal lengths: {told}; give all the same length, wrap one that "
        "every child gets whole in unmapped(), or write task.mapping(zip_shortest=True).map(...) to stop with the "
        "shortest"
    )


def refs(arg: Arg) -> Iterator[Ref]:
    """The leaves of an argument, left to right."""
    if isinstance(arg, Ref):
        yield arg
    elif not isinstance(arg, Const):
        for item in arg.items:
            yield from refs(item)


def consts(arg: Arg) -> Iterator[Const]:
    """The constants in an argument, left to right."""
    if isinstance(arg, Const):
        yield arg
    elif not isinstance(arg, Ref):
        for item in arg.items:
            yield from consts(item)


def described(
    types: Mapping[bytes, Description],
) -> tuple[tuple[TypeDef, ...], tuple[ClassDef, ...]]:
    """`Graph.types` and `Graph.classes` for descriptions by digest: classes that several types reach stand once."""
    places: dict[bytes, int] = {}
    classes: list[ClassDef] = []
    found = []
    for digest, description in types.items():
        indices = []
        for known in description.classes:
            place = places.setdefault(msgspec.msgpack.encode(known), len(classes))
            if place == len(classes):
                classes.append(known)
            indices.append(place)
        found.append(TypeDef(digest, description.type, tuple(indices)))
    return tuple(found), tuple(classes)


def _digest(value: object) -> bytes:
    return digest_of(msgspec.msgpack.encode(value))


class Graph(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """A flow as data. Immutable; what is derived from it is computed once and kept beside."""

    name: str
    tasks: tuple[TaskDef, ...] = ()
    nodes: tuple[Node, ...] = ()
    value: Arg | None = None
    """What the flow returns, if it returns a node."""
    reference: tuple[int, ...] = ()
    """Nodes on which success is judged; empty means the terminal ones."""
    types: tuple[TypeDef, ...] = ()
    """Every declared type of tasks and parameters, once."""
    classes: tuple[ClassDef, ...] = ()
    """The classes that these reach; two may have one name."""

    @cached_property
    def descriptions(self) -> Mapping[bytes, Description]:
        """Digest → the declared type."""
        return {
            found.digest: Description(found.type, tuple(self.classes[i] for i in found.classes))
            for found in self.types
        }

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Node name → index."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    @cached_property
    def parameters(self) -> Mapping[str, ParameterNode]:
        """The flow's parameters by name, in order."""
        return {node.name: node for node in self.nodes if isinstance(node, ParameterNode)}

    def task_of(self, node: int) -> TaskDef:
        """The definition behind a task node."""
        found = self.nodes[node]
        assert isinstance(found, TaskNode), f"node {node} is a parameter"
        return self.tasks[found.task]

    def kept_as(self, node: int) -> tuple[bytes, bytes]:
        """Digests of the declared type of a node's values and of what keeps them."""
        found = self.nodes[node]
        if isinstance(found, ParameterNode):
            return found.declared, b""
        task = self.tasks[found.task]
        return task.returns, task.keeper

    @cached_property
    def cached(self) -> tuple[int, ...]:
        """The nodes whose results may be reused, or whose policy says why not."""
        if all(task.policy.cache is None for task in self.tasks):
            return ()
        return tuple(
            i
            for i, node in enumerate(self.nodes)
            if isinstance(node, TaskNode) and self.tasks[node.task].policy.cache is not None
        )

    def counted(self, node: int) -> Counted:
        """Which of a cached node's inputs, and which of the flow's parameters, count in its keys."""
        found, policy = self.nodes[node], self.task_of(node).policy.cache
        assert isinstance(found, TaskNode), f"node {node} is a parameter"
        assert policy is not None, f"{found.name} is not cached"
        names, parameters = policy.inputs, policy.parameters
        inputs = found.inputs if names is None else tuple(i for i in found.inputs if i.name in names)
        return inputs, tuple(self.parameters) if parameters is None else parameters

    def key_parts(self, node: int) -> tuple[KeyPart, ...]:
        """Name the parts of a cached node's keys, in the order of their digests in `TaskStarted`."""
        inputs, parameters = self.counted(node)
        policy = self.task_of(node).policy.cache
        parts = [KeyPart("input", item.name) for item in inputs]
        parts += [KeyPart("parameter", name) for name in parameters]
        if policy is not None and policy.keyed:
            parts.append(KeyPart("answer"))
        return tuple(parts)

    @cached_property
    def digests(self) -> Digests:
        """Shape (names, edges, mapping, parameters), code, and policy, each digested apart."""
        nodes = [
            msgspec.structs.replace(node, declared=b"") if isinstance(node, ParameterNode) else node
            for node in self.nodes
        ]
        return Digests(
            shape=_digest((self.name, [t.name for t in self.tasks], nodes, self.value, self.reference)),
            code=_digest([t.code for t in self.tasks]),
            policy=_digest([t.policy for t in self.tasks]),
        )

    @cached_property
    def digest(self) -> str:
        """Name of the stream `flow/<digest>` that holds this graph; equal graphs, equal bytes."""
        return _digest(self).hex()

    def mermaid(self) -> str:
        """The flow as the text of a Mermaid flowchart: equal graphs, equal text.

        Round boxes are parameters, square ones tasks, double-sided ones mapped tasks. An arrow bears the
        name of its argument, is thick where it is mapped over, and dotted where it only orders.
        """
        lines = ["flowchart TD"]
        for i, node in enumerate(self.nodes):
            if isinstance(node, ParameterNode):
                left, right = "([", "])"
            else:
                left, right = ("[[", "]]") if node.mapped else ("[", "]")
            lines.append(f"    n{i}{left}{_quoted(node.name)}{right}")
        for i, node in enumerate(self.nodes):
            if isinstance(node, TaskNode):
                lines += [f"    {arrow} n{i}" for arrow in _arrows(node)]
        return "\n".join(lines) + "\n"


def _arrows(node: TaskNode) -> Iterator[str]:
    """One arrow for each node that an argument needs, and one for each that is only waited for."""
    needed: set[int] = set()
    for item in node.inputs:
        line = "==>" if item.each else "-->"
        for ref in dict.fromkeys(refs(item.arg)):
            needed.add(ref.node)
            part = "".join(f"[{key!r}]" for key in ref.path)
            yield f"n{ref.node} {line}|{_quoted(f'{item.name} = {part}' if part else item.name)}|"
    for up in node.after:
        if up not in needed:
            yield f"n{up} -.->"


def _quoted(text: str) -> str:
    """A Mermaid label; whatever could mean something to Mermaid or HTML is written as its number."""
    plain = " _-.,:()=*+/"
    safe = (c if (c.isalnum() or c in plain) and c.isprintable() else f"#{ord(c)};" for c in text)
    return '"' + "".join(safe) + '"'

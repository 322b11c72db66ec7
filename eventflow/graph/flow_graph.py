"""The graph of one flow: its nodes, its tasks, and the declared types.

Nodes are listed in the order in which they were built, which is topological: a node refers only to nodes before it.
A node's *index* is its number on disk; its name is text for people.

The declared types of tasks and parameters are described in `Graph.types`, each once, and named by digest. A value
opens only as the type under which it was stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal, TypeAlias

import msgspec

from eventflow.fingerprints.type_defs import ClassDef, Description, Type
from eventflow.graph.arguments import Arg, Const, Input
from eventflow.graph.tasks import TaskDef
from eventflow.serializers import digest_of

__all__ = [
    "Counted",
    "Digests",
    "Graph",
    "GraphNode",
    "KeyPart",
    "KeyPartKind",
    "ParameterNode",
    "TaskNode",
    "TypeDef",
    "described",
    "unequal",
]


class ParameterNode(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="parameter", gc=False
):
    """A parameter of the flow."""

    name: str
    required: bool = True
    default: Const | None = None
    annotation: str = ""
    """The declared type as text, for people."""
    declared: bytes = b""
    """Its digest, which `Graph.types` describes; empty for none."""


class TaskNode(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="task", gc=False):
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


GraphNode: TypeAlias = ParameterNode | TaskNode
Counted: TypeAlias = tuple[tuple[Input, ...], tuple[str, ...]]
"""The parts of a cached node's keys: inputs, and names of the flow's parameters."""


KeyPartKind: TypeAlias = Literal[
    "code", "result_type", "serializer", "key_function", "counted", "input", "parameter", "answer"
]
"""A cache key is made of the task's code, the type and serializer of its result, the code of its `cache_key`, the
choice of what is counted, each counted input and parameter, and the answer of its `cache_key`."""


class KeyPart(msgspec.Struct, frozen=True, array_like=True):
    """One thing that counts in a cache key."""

    kind: KeyPartKind
    name: str = ""
    """Of an input or of a parameter; empty for the other kinds, which occur once."""


class TypeDef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A declared type, under the digest of its description."""

    digest: bytes
    type: Type
    classes: tuple[int, ...] = ()
    """The classes that it reaches, as indices into `Graph.classes`."""


class Digests(msgspec.Struct, frozen=True, array_like=True):
    """Compared when a run is resumed: `shape` must agree, and `code` of finished tasks; `policy` may change."""

    shape: bytes
    code: bytes
    policy: bytes


def unequal(task: str, widths: Mapping[str, int]) -> str:
    """Return the message for inputs of different lengths that a task is mapped over."""
    lengths = ", ".join(f"{name!r} has {width}" for name, width in widths.items())
    return (
        f"task {task!r} is mapped over inputs of unequal lengths: {lengths}; give all the same length, wrap one that "
        "every child gets whole in unmapped(), or write task.mapping(zip_shortest=True).map(...) to stop with the "
        "shortest"
    )


def described(
    types: Mapping[bytes, Description],
) -> tuple[tuple[TypeDef, ...], tuple[ClassDef, ...]]:
    """Return `Graph.types` and `Graph.classes` for descriptions by digest.

    A class that several types reach is listed once.
    """
    type_defs = []
    classes: list[ClassDef] = []
    indices: dict[bytes, int] = {}  # encoded class → its index in `classes`
    for digest, description in types.items():
        reached = []
        for class_def in description.classes:
            encoded = msgspec.msgpack.encode(class_def)
            if encoded not in indices:
                indices[encoded] = len(classes)
                classes.append(class_def)
            reached.append(indices[encoded])
        type_defs.append(TypeDef(digest, description.type, tuple(reached)))
    return tuple(type_defs), tuple(classes)


def _digest(value: object) -> bytes:
    return digest_of(msgspec.msgpack.encode(value))


class Graph(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """A flow as data. Immutable; properties derived from it are computed once."""

    name: str
    tasks: tuple[TaskDef, ...] = ()
    nodes: tuple[GraphNode, ...] = ()
    value: Arg | None = None
    """The returned node, or an expression of nodes; None if the flow returns no node."""
    reference: tuple[int, ...] = ()
    """Nodes on which success is judged; empty means the terminal ones."""
    types: tuple[TypeDef, ...] = ()
    """Every declared type of tasks and parameters, once."""
    classes: tuple[ClassDef, ...] = ()
    """The classes that these reach; two may have one name."""
    requires: tuple[str, ...] = ()
    """Features that a runner must know to run this flow; a reader without them shows it. See `events.FEATURES`."""

    @cached_property
    def descriptions(self) -> Mapping[bytes, Description]:
        """Digest → the declared type."""
        descriptions = {}
        for type_def in self.types:
            classes = tuple(self.classes[i] for i in type_def.classes)
            descriptions[type_def.digest] = Description(type_def.type, classes)
        return descriptions

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Node name → index."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    @cached_property
    def task_nodes(self) -> Mapping[int, TaskNode]:
        """The task nodes by index."""
        return {i: node for i, node in enumerate(self.nodes) if isinstance(node, TaskNode)}

    @cached_property
    def parameter_nodes(self) -> Mapping[int, ParameterNode]:
        """The parameter nodes by index."""
        return {i: node for i, node in enumerate(self.nodes) if isinstance(node, ParameterNode)}

    @cached_property
    def parameters(self) -> Mapping[str, ParameterNode]:
        """The flow's parameters by name, in order."""
        return {node.name: node for node in self.parameter_nodes.values()}

    def task_of(self, node: int) -> TaskDef:
        """Return the definition behind a task node."""
        return self.tasks[self.task_nodes[node].task]

    def name_at(self, address: Sequence[int]) -> str:
        """Return the name of the task at an address of a run: `enrich`, `enrich[3]`."""
        node, *path = address
        return self.nodes[node].name + "".join(f"[{index}]" for index in path)

    def kept_as(self, node: int) -> tuple[bytes, bytes]:
        """Return the digests of a node's declared type and of its serializer."""
        if node in self.parameter_nodes:
            return self.parameter_nodes[node].declared, b""
        task = self.task_of(node)
        return task.returns, task.keeper

    @cached_property
    def cacheable(self) -> tuple[int, ...]:
        """The nodes whose results may be reused, or whose policy says why not."""
        if all(task.policy.cache is None for task in self.tasks):
            return ()
        return tuple(i for i in self.task_nodes if self.task_of(i).policy.cache is not None)

    def counted(self, node: int) -> Counted:
        """Return the inputs of a cached node, and the names of the flow's parameters, that count in its keys."""
        task_node = self.task_nodes[node]
        policy = self.task_of(node).policy.cache
        assert policy is not None, f"{task_node.name} is not cached"
        inputs, names = task_node.inputs, policy.inputs
        if names is not None:
            inputs = tuple(item for item in inputs if item.name in names)
        parameters = policy.parameters
        if parameters is None:
            parameters = tuple(self.parameters)
        return inputs, parameters

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
        nodes = list(self.nodes)
        for i, parameter in self.parameter_nodes.items():
            nodes[i] = msgspec.structs.replace(parameter, declared=b"")
        task_names = [task.name for task in self.tasks]
        return Digests(
            shape=_digest((self.name, task_names, nodes, self.value, self.reference)),
            code=_digest([task.code for task in self.tasks]),
            policy=_digest([task.policy for task in self.tasks]),
        )

    @cached_property
    def digest(self) -> str:
        """Name of the stream `flow/<digest>` that holds this graph; equal graphs, equal bytes."""
        return _digest(self).hex()

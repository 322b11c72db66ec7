"""The graph of one flow, as data.

A `Graph` is recorded by `FlowDefined`, so any run can be folded, drawn and explained without the user's code.

    arguments     where the arguments of a task come from
    tasks         task functions: policy, cache, digests of code and types
    flow_graph    nodes, declared types, and the graph itself
    soundness     whether a graph that was read is one
    outline       what can be shown of a graph of a later version
"""

from eventflow.graph.arguments import (
    Arg,
    Const,
    DictOf,
    Input,
    ListOf,
    Ref,
    Subscript,
    TupleOf,
    consts,
    refs,
)
from eventflow.graph.flow_graph import (
    Counted,
    Digests,
    Graph,
    GraphNode,
    KeyPart,
    KeyPartKind,
    ParameterNode,
    TaskNode,
    TypeDef,
    described,
    unequal,
)
from eventflow.graph.outline import outline
from eventflow.graph.soundness import fault_of
from eventflow.graph.tasks import CachePolicy, Policy, TaskDef

__all__ = [
    "Arg",
    "CachePolicy",
    "Const",
    "Counted",
    "DictOf",
    "Digests",
    "Graph",
    "GraphNode",
    "Input",
    "KeyPart",
    "KeyPartKind",
    "ListOf",
    "ParameterNode",
    "Policy",
    "Ref",
    "Subscript",
    "TaskDef",
    "TaskNode",
    "TupleOf",
    "TypeDef",
    "consts",
    "described",
    "fault_of",
    "outline",
    "refs",
    "unequal",
]

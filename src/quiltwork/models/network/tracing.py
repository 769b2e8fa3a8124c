"""The graph of a module: torch.export, then every node as a name and JSON.

The batch size is left open. torch.export breaks composite operators into small ones; those of the closed list are left
whole, so that the graph stays short and computes bit for bit what the module does. Nodes that the output does not stand
on are dropped, and so are weights that no node takes.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from quiltwork.contribution.canonical import shown
from quiltwork.contribution.network_graph import Graph, GraphNode, GraphTensor
from quiltwork.errors import ExportError
from quiltwork.models.network.execution import needed, steps_of
from quiltwork.models.network.operators import DROPPED, DTYPES, KEPT, OPERATORS
from quiltwork.models.network.weights import sent_weights

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PREFIX = "module."
_WHOLE = {operator.add: "int.add", operator.sub: "int.sub", operator.mul: "int.mul", operator.floordiv: "int.floordiv"}
_ALIASES = {
    "_unsafe_view.default": "view.default",
    "detach.default": "alias.default",
    "lift_fresh_copy.default": "alias.default",
    "reshape.default": "view.default",
    "sym_size.int": "size.int",
}


class Plain(nn.Module):
    """A module whose output is a tensor: that of ``module``, or its ``.logits``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[n, outputs]``."""
        out = self.module(x)
        logits: Tensor = out if isinstance(out, Tensor) else getattr(out, "logits", out)
        return logits


@dataclass(frozen=True)
class Trace:
    """A graph, its tensors by entry, and for each submodule the nodes that it computed, in order."""

    graph: Graph
    tensors: Mapping[str, Tensor]
    stacks: Mapping[str, tuple[str, ...]]


def traced(plain: Plain, x: Tensor) -> Trace:
    """The graph of a module on normalised inputs ``[n, ...]`` of at least two rows.

    Raises:
        ExportError: the module cannot be followed, or uses an operator outside the closed list.
    """
    program = _exported(plain, x)
    calls = [node for node in program.graph.nodes if node.op == "call_function" and "_assert" not in str(node.target)]
    nodes = tuple(_node(node) for node in calls if not _is_check(node))
    output = program.graph_signature.user_outputs[0]
    start = program.graph_signature.user_inputs[0]
    held = _held(program)
    declared = {name: _declared(entry, tensor) for name, (entry, tensor) in held.items()}
    graph = _pruned(_graph(plain, nodes, declared, str(start), str(output)))
    entries = {tensor.entry for tensor in graph.tensors.values()}
    tensors = {entry: tensor.detach().cpu().clone() for entry, tensor in held.values() if entry in entries}
    return Trace(graph, sent_weights(tensors), _stacks(calls))


def _graph(
    plain: Plain, nodes: tuple[GraphNode, ...], tensors: dict[str, GraphTensor], start: str, output: str
) -> Graph:
    try:
        return Graph(nodes=nodes, tensors=tensors, input=start, output=output)
    except ValidationError as error:
        raise ExportError(
            f"the module {type(plain.module).__name__}",
            why=f"its graph is none that could be sent: {error.errors()[0]['msg']}",
            mend="Give a module that computes its output from its input, within the limits of docs/networks.md.",
        ) from error


def _exported(plain: Plain, x: Tensor) -> ExportedProgram:
    """Followed by running it, and where that fails by reading its code, which knows that ``len(x)`` is the batch."""
    try:
        program = _followed(plain, x, strict=False)
    except Exception:  # whatever the module's own code or the exporter raises
        try:
            program = _followed(plain, x, strict=True)
        except Exception as error:
            raise ExportError(
                f"the module {type(plain.module).__name__}",
                why=f"torch.export cannot follow it: {_first_line(error)}",
                mend="Take out control flow that depends on values, and sizes that fix the batch.",
            ) from error
    changed = [*program.graph_signature.buffers_to_mutate.values()]
    if changed:
        raise ExportError(
            f"buffer {shown(changed[0])}", why="the module changes it while it computes", mend="Keep no counts in it."
        )
    return program


def _followed(plain: Plain, x: Tensor, *, strict: bool) -> ExportedProgram:
    table = torch.export.default_decompositions()
    for overload in KEPT:
        table.pop(overload, None)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of torch
        program = torch.export.export(plain, (x,), dynamic_shapes=shapes, strict=strict)
        small: ExportedProgram = program.run_decompositions(table)
        return small


def _first_line(error: Exception) -> str:
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _is_check(node: fx.Node) -> bool:
    return "sym_constrain" in str(node.target)


def _held(program: ExportedProgram) -> dict[str, tuple[str, Tensor]]:
    """Node name to entry and tensor, for all that the program was given besides its input."""
    signature = program.graph_signature
    state, constants = program.state_dict, program.constants
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    found = {}
    for node, name in named.items():
        found[node] = (name.removeprefix(_PREFIX), state[name] if name in state else constants[name])
    for node, name in signature.inputs_to_lifted_tensor_constants.items():
        found[node] = (f"constant.{name.removeprefix(_PREFIX)}", constants[name])
    return found


def _declared(entry: str, tensor: Tensor) -> GraphTensor:
    names: dict[torch.dtype, Any] = {torch.float32: "float32", torch.bool: "bool"}
    dtype = names.get(tensor.dtype, "int64" if not tensor.is_floating_point() else None)
    if dtype is None or 0 in tensor.shape:
        raise ExportError(f"tensor '{entry}'", why=f"it is {tensor.dtype} {list(tensor.shape)}", mend="Use float32.")
    return GraphTensor(entry=entry, dtype=dtype, shape=tuple(tensor.shape))


def _node(node: fx.Node) -> GraphNode:
    name, args, kwargs = _operator(node), list(node.args), dict(node.kwargs)
    if name == "gelu.default" and kwargs.pop("approximate", "none") == "tanh":
        name = "gelu.tanh"
    if name == "div.Tensor_mode" and kwargs.pop("rounding_mode", None) == "floor":
        name = "div.floor"
    if name not in OPERATORS:
        raise ExportError(
            f"operator {shown(name)} of {_owner(node)}",
            why="it is not on the closed list of operators",
            mend="Build this part of operators that docs/networks.md lists.",
        )
    kept = {key: _argument(value, name) for key, value in kwargs.items() if key not in DROPPED}
    if name == "_to_copy.default":
        kept.pop("non_blocking", None)
        if "dtype" not in kept:
            return GraphNode(name=node.name, op="alias.default", args=(_argument(args[0], name),))
    return GraphNode(name=node.name, op=name, args=tuple(_argument(one, name) for one in args), kwargs=kept)


def _operator(node: fx.Node) -> str:
    if node.target is operator.getitem:
        return "item"
    if node.target in _WHOLE:
        return _WHOLE[node.target]
    name = str(node.target).removeprefix("aten.")
    return _ALIASES.get(name, name)


def _owner(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    names = [path.removeprefix(_PREFIX) for path, _ in stack.values() if path not in ("", "module")]
    return f"submodule '{names[-1]}'" if names else "the module"


def _argument(value: Any, name: str) -> Any:
    """A value of torch.fx as JSON."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_argument(one, name) for one in value]
    if isinstance(value, torch.dtype) and value in _DTYPE_NAMES:
        return {"dtype": _DTYPE_NAMES[value]}
    if isinstance(value, float) and math.isinf(value):
        return {"float": "inf" if value > 0 else "-inf"}
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ExportError(f"operator '{name}'", why=f"it takes {shown(value)}, which a graph cannot hold", mend="Avoid it.")


def _pruned(graph: Graph) -> Graph:
    start = {graph.input, *graph.tensors}
    alive = {step.name for step in needed(steps_of(graph), [graph.output], start)}
    nodes = tuple(node for node in graph.nodes if node.name in alive)
    taken = {name for node in nodes for name in node.takes}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in taken}
    return Graph(nodes=nodes, tensors=tensors, input=graph.input, output=graph.output)


def _stacks(calls: list[fx.Node]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for node in calls:
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            found.setdefault(path.removeprefix(_PREFIX), []).append(node.name)
    return {path: tuple(names) for path, names in found.items()}

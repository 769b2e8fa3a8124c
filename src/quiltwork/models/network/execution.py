"""Running a graph: what is needed for some values is computed, in order, and let go after its last use.

    needed = everything that the wanted values stand on, as far back as what is given
    value  = operator(arguments with references replaced by values)

The arguments of a graph are JSON. They are read once, into steps; reading refuses operators that are not on the closed
list. Whatever an operator raises on a stranger's arguments becomes an error of our tree that names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from quiltwork.contribution.canonical import shown
from quiltwork.contribution.network_graph import Graph, GraphNode
from quiltwork.errors import MalformedContribution, QuiltworkError, UnsupportedContribution
from quiltwork.models.network.operators import CREATING, DROPPED, DTYPES, OPERATORS, Value

MEND = "The party must capture the network again with quiltwork; its graph must not be edited by hand."

MOST_WHOLE = 2**24
"""Magnitude of whole numbers in arguments; but for 2^63 - 1, which ends a slice at the end."""


@dataclass(frozen=True)
class Reference:
    """The value of an earlier node."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation, ready to run."""

    name: str
    op: str
    function: Callable[..., Value]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    takes: tuple[str, ...]

    def apply(self, values: Mapping[str, Value], device: torch.device) -> Value:
        """The value of the step, given those that it takes.

        Raises:
            MalformedContribution: the operator refuses its arguments.
        """
        creating = {"device": device} if self.op in CREATING else {}
        try:
            args = [resolved(argument, values) for argument in self.args]
            kwargs = {key: resolved(argument, values) for key, argument in self.kwargs.items()}
            return self.function(*args, **kwargs, **creating)
        except QuiltworkError:
            raise
        except Exception as error:  # whatever ATen raises on arguments that a stranger chose
            raise self.refusal(f"its operator {self.op} fails: {_first_line(error)}") from error

    def refusal(self, why: str) -> MalformedContribution:
        """The error that names this step."""
        return MalformedContribution(f"node '{self.name}' of a network's graph", why=why, mend=MEND)


def _first_line(error: Exception) -> str:
    return shown((str(error).splitlines() or [type(error).__name__])[0], 200)


def resolved(argument: Any, values: Mapping[str, Value]) -> Any:
    """An argument with values in the place of references."""
    if isinstance(argument, Reference):
        return values[argument.name]
    if isinstance(argument, list):
        return [resolved(one, values) for one in argument]
    return argument


def steps_of(graph: Graph) -> tuple[Step, ...]:
    """Read a graph's nodes.

    Raises:
        UnsupportedContribution: an operator that is not on the closed list.
        MalformedContribution: arguments that no operator takes.
    """
    return tuple(_step(node) for node in graph.nodes)


def _step(node: GraphNode) -> Step:
    if node.op not in OPERATORS:
        raise UnsupportedContribution(
            f"operator {shown(node.op)} of node '{node.name}'",
            why="it is not on the closed list of operators",
            mend="Build the network of operators listed in docs/networks.md, or upgrade quiltwork.",
        )
    placed = sorted(node.kwargs.keys() & set(DROPPED))
    if placed:
        raise MalformedContribution(f"node '{node.name}'", why=f"it takes {placed[0]!r}, which no graph may", mend=MEND)
    args = tuple(_read(argument, node) for argument in node.args)
    kwargs = {key: _read(argument, node) for key, argument in node.kwargs.items()}
    return Step(node.name, node.op, OPERATORS[node.op], args, kwargs, node.takes)


def _read(argument: Any, node: GraphNode) -> Any:
    if isinstance(argument, list):
        return [_read(one, node) for one in argument]
    if isinstance(argument, dict):
        return _read_tagged(argument, node)
    if type(argument) is int and abs(argument) > MOST_WHOLE and argument != 2**63 - 1:
        why = f"it takes {argument}, and whole numbers end at {MOST_WHOLE}"
        raise MalformedContribution(f"node '{node.name}'", why=why, mend=MEND)
    return argument


def _read_tagged(argument: dict[str, str], node: GraphNode) -> Any:
    if "node" in argument:
        return Reference(argument["node"])
    if "float" in argument:
        return float(argument["float"])
    if argument["dtype"] not in DTYPES:
        why = f"{shown(argument['dtype'])} is no element type of a graph"
        raise MalformedContribution(f"node '{node.name}'", why=why, mend=MEND)
    return DTYPES[argument["dtype"]]


def needed(steps: Iterable[Step], want: Iterable[str], known: Iterable[str]) -> list[Step]:
    """The steps that ``want`` stands on and ``known`` does not spare, in order."""
    have, missing, found = set(known), set(want), []
    for step in reversed(tuple(steps)):
        if step.name in missing and step.name not in have:
            found.append(step)
            missing.update(step.takes)
    return found[::-1]


def execute(
    steps: Iterable[Step],
    values: dict[str, Value],
    want: Iterable[str],
    device: torch.device,
    *,
    keep_all: bool = False,
    watch: Callable[[Step, Value], None] | None = None,
    gone: Callable[[Value], None] | None = None,
) -> dict[str, Value]:
    """Compute ``want`` from ``values``; what is not wanted leaves memory after its last use.

    Args:
        steps: all steps of a graph, in order.
        values: what is known: input, tensors, replaced activations. Computed values are added to it.
        want: names of values.
        device: where tensors are made.
        keep_all: let nothing go.
        watch: called with each step and its value, before the next step runs.
        gone: called with each value that is let go.
    """
    wanted = set(want)
    todo = needed(steps, wanted, values)
    last = {name: step for step in todo for name in step.takes}
    own = {step.name for step in todo}
    for step in todo:
        value = values[step.name] = step.apply(values, device)
        if watch is not None:
            watch(step, value)
        if keep_all:
            continue
        for name in {*step.takes, step.name} & own - wanted:
            if last.get(name, step) is step and (name != step.name or name not in last):
                if gone is not None:
                    gone(values[name])
                del values[name]
    return {name: values[name] for name in wanted}

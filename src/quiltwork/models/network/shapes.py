"""The shape run: every node of a graph on tensors without memory, before any real tensor is made.

A stranger's graph can ask for ``full([10^9])`` in a few bytes. On torch's ``meta`` device operators compute shapes and
element types and nothing else, so a run of the whole graph there costs microseconds a node and tells how much each
would hold. The limits are stated per input of a batch::

    one node         2^24 numbers       (64 MiB in float32)
    alive at once    2^28 numbers       without the weights; with what products hold on their way
    one node         2^34 multiply-adds, or cells that pooling looks at
    all nodes        2^38 of them

A graph computes with its batch size, so what holds for two inputs need not hold for three: a network makes this run
once for every batch size that it meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quiltwork.contribution.network_graph import Graph, Signature
from quiltwork.errors import MalformedContribution
from quiltwork.models.network.execution import MEND, Step, execute
from quiltwork.models.network.operators import DTYPES, Value
from quiltwork.models.network.work import held_within, metered, steps_through

MOST_NUMBERS = 2**24
MOST_ALIVE = 2**28
MOST_WORK = 2**34
MOST_WORK_TOGETHER = 2**38

_META = torch.device("meta")
_TYPES = frozenset(DTYPES.values())


def tensors_of(value: Value) -> tuple[Tensor, ...]:
    """The tensors among a node's value."""
    if isinstance(value, Tensor):
        return (value,)
    return tuple(one for one in value if isinstance(one, Tensor)) if isinstance(value, (tuple, list)) else ()


@dataclass
class _Watch:
    """Refuses the first value beyond a limit."""

    batch: int
    alive: int = 0
    work: int = 0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def see(self, step: Step, value: Value) -> None:
        if isinstance(value, int) and not isinstance(value, bool):
            self._limit(step, "a whole number of", abs(value), MOST_NUMBERS * self.batch)
            return
        tensors = tensors_of(value)
        if not tensors or not all(one.dtype in _TYPES and one.layout == torch.strided for one in tensors):
            raise step.refusal("its value is no tensor of a type that a graph may hold")
        size = sum(one.numel() for one in tensors)
        self._limit(step, "numbers:", size, MOST_NUMBERS * self.batch)
        self.alive += size
        self._limit(step, "numbers held at once:", self.alive, MOST_ALIVE * self.batch)
        if isinstance(value, Tensor):
            self.shapes[step.name] = tuple(value.shape)

    def count(self, step: Step, args: tuple[Any, ...], value: Value) -> None:
        held = self.alive + held_within(step.op, args, value)
        self._limit(step, "numbers held at once:", held, MOST_ALIVE * self.batch)
        work = steps_through(step.op, args, value)
        self.work += work
        self._limit(step, "multiply-adds or the like:", work, MOST_WORK * self.batch)
        self._limit(step, "multiply-adds or the like, so far:", self.work, MOST_WORK_TOGETHER * self.batch)

    def let_go(self, value: Value) -> None:
        self.alive -= sum(one.numel() for one in tensors_of(value))

    def _limit(self, step: Step, what: str, found: int, most: int) -> None:
        if found > most:
            raise step.refusal(f"{what} {found}, and at most {most} are taken for {self.batch} inputs")


def start_without_memory(graph: Graph, signature: Signature, batch: int) -> dict[str, Value]:
    """What a graph's steps begin with, on the meta device."""
    start = {
        name: torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype], device=_META)
        for name, tensor in graph.tensors.items()
    }
    return start | {graph.input: torch.empty((batch, *signature.shape), device=_META)}


def shape_run(
    steps: Sequence[Step], graph: Graph, signature: Signature, batch: int, want: Sequence[str] = ()
) -> dict[str, tuple[int, ...]]:
    """Shapes of ``want`` and of the output for a batch of so many inputs.

    Raises:
        MalformedContribution: a node beyond the limits, one that its operator refuses, an output of another shape.
    """
    watch = _Watch(batch)
    values = start_without_memory(graph, signature, batch)
    with torch.no_grad():
        execute(metered(steps, watch.count), values, [*want, graph.output], _META, watch=watch.see, gone=watch.let_go)
    known = {name: tuple(value.shape) for name, value in values.items() if isinstance(value, Tensor)} | watch.shapes
    found = {name: known.get(name, ()) for name in (*want, graph.output)}
    if found[graph.output] != (batch, signature.outputs):
        raise MalformedContribution(
            "the output of a network's graph",
            why=f"its shape for {batch} inputs is {list(found[graph.output])}, not {[batch, signature.outputs]}",
            mend=MEND,
        )
    return found

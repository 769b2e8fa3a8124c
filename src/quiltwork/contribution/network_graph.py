"""A trained network as data: its inputs, its graph of closed operators, the places that can be read or replaced.

    raw x  ->  (x - mean) / std  ->  graph  ->  [n, outputs]

A graph is a list of nodes in the order of their computation. Each names an operator of the closed list in
docs/networks.md and its arguments as JSON; an argument ``{"node": "add_3"}`` is the value of an *earlier* node, so a
graph has no circle, no branch and no code::

    {"name": "add_3", "op": "add.Tensor", "args": [{"node": "relu"}, {"node": "conv_2"}], "kwargs": {}}

Weights are the graph's tensors: each has a node name, the name under which the payload holds it, a shape and a dtype.
All that leaves is floating point, so whole numbers and truth values travel as F64 and are cast back.

What an operator takes and how large its result grows is not decided here but by the shape run of
``quiltwork.models.network``, before any weight is read.

>>> linear = GraphNode(name="y", op="linear.default", args=({"node": "x"}, {"node": "w"}), kwargs={})
>>> weight = GraphTensor(entry="head.weight", dtype="float32", shape=(10, 64))
>>> Graph(nodes=(linear,), tensors={"w": weight}, input="x", output="y").order
{'x': 0, 'w': 0, 'y': 1}
>>> Graph(nodes=(linear,), tensors={}, input="x", output="y")
Traceback (most recent call last):
...
pydantic_core._pydantic_core.ValidationError: 1 validation error for Graph
  Value error, node 'y' takes 'w', which no earlier node gives [type=value_error, ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, model_validator

from quiltwork.contribution.fields import ColumnName, Count, Positive, Short
from quiltwork.privacy.events import Record

MOST_NODES = 20_000
MOST_VALUES = 4096
"""JSON values in the arguments of one node."""
MOST_DEPTH = 4

NodeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,255}$")]
OperatorName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-zA-Z0-9_]{0,63}(\.[a-zA-Z_][A-Za-z0-9_]{0,63})?$")]
EntryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,240}$")]
PointName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,240}$")]
GraphDtype: TypeAlias = Literal["float32", "int64", "bool"]
Form: TypeAlias = Literal["map", "grid", "tokens", "vector"]
"""``map`` [n, c, h, w], ``grid`` [n, h, w, d], ``tokens`` [n, t, d], ``vector`` [n, d]."""

_TAGS = ("node", "dtype", "float")


def _plain(value: JsonValue) -> JsonValue:
    """Refuse arguments that are deep, long, textual or of an object that means nothing here."""
    left = MOST_VALUES
    level: list[JsonValue] = [value]
    for _ in range(MOST_DEPTH + 1):
        below: list[JsonValue] = []
        for one in level:
            if isinstance(one, list):
                below += one
            elif isinstance(one, dict):
                _require_tag(one)
            elif isinstance(one, str) or (isinstance(one, float) and not math.isfinite(one)):
                raise ValueError("an argument is a number, a truth value, null, a list or one tagged object")
        left -= len(below)
        if left < 0:
            raise ValueError(f"an argument holds more than {MOST_VALUES} values")
        if not below:
            return value
        level = below
    raise ValueError(f"an argument nests deeper than {MOST_DEPTH} levels")


def _require_tag(tagged: dict[str, JsonValue]) -> None:
    if len(tagged) != 1 or not any(isinstance(tagged.get(tag), str) for tag in _TAGS):
        raise ValueError('an object is {"node": name}, {"dtype": name} or {"float": "inf" or "-inf"}')
    if "float" in tagged and tagged["float"] not in ("inf", "-inf"):
        raise ValueError('{"float": ...} is "inf" or "-inf"; other numbers are written as such')


Argument = Annotated[JsonValue, AfterValidator(_plain)]
"""``null``, a truth value, a number, a list of such, ``{"node": ...}``, ``{"dtype": ...}`` or ``{"float": "-inf"}``."""


class Signature(Record):
    """What a network takes and gives.

    Attributes:
        shape: of one raw input: ``(channels, height, width)`` or ``(width,)``.
        units: of raw inputs, as text, such as ``"0..1"``; networks are composed only where they are equal.
        mean: subtracted from raw inputs inside the network, per channel or one for all.
        std: what is divided by afterwards; positive, as many.
        classes: labels of the outputs in order; None where the outputs are numbers.
        outputs: logits or numbers per input.
    """

    shape: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=3)]
    units: Short
    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)] = (0.0,)
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=4096)] = (1.0,)
    classes: Annotated[tuple[ColumnName, ...], Field(min_length=2, max_length=10_000)] | None = None
    outputs: Annotated[int, Field(ge=1, le=10_000)]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Signature:
        if len(self.shape) == 2:
            raise ValueError("an input is (channels, height, width) or (width,)")
        if math.prod(self.shape) > 2**24:
            raise ValueError("an input holds more than 2^24 numbers")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, self.shape[0]):
            raise ValueError("mean and std are one number each, or one for each channel")
        if self.classes is not None and not len(set(self.classes)) == len(self.classes) == self.outputs:
            raise ValueError(f"{self.outputs} outputs need as many classes, each named once")
        return self


class GraphTensor(Record):
    """One weight or constant: its name in the payload, what it is cast to, its shape."""

    entry: EntryName
    dtype: GraphDtype
    shape: Annotated[tuple[Positive, ...], Field(max_length=8)]


class GraphNode(Record):
    """One operation: an operator of the closed list on earlier values."""

    name: NodeName
    op: OperatorName
    args: Annotated[tuple[Argument, ...], Field(max_length=16)] = ()
    kwargs: Annotated[dict[NodeName, Argument], Field(max_length=16)] = Field(default_factory=dict)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the nodes that it reads, in the order of its arguments."""
        return tuple(_references([*self.args, *self.kwargs.values()]))


def _references(values: list[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, list):
            yield from _references(value)
        elif isinstance(value, dict) and "node" in value:
            yield value["node"]


class Graph(Record):
    """Nodes in the order of computation, the tensors they start from, the names of input and output."""

    nodes: Annotated[tuple[GraphNode, ...], Field(min_length=1, max_length=MOST_NODES)]
    tensors: Annotated[dict[NodeName, GraphTensor], Field(max_length=9_000)]
    input: NodeName
    output: NodeName

    @model_validator(mode="after")
    def _is_ordered(self) -> Graph:
        known = {self.input, *self.tensors}
        if self.input in self.tensors:
            raise ValueError("the input has the name of a tensor")
        for node in self.nodes:
            for name in node.takes:
                if name not in known:
                    raise ValueError(f"node '{node.name}' takes {name[:80]!a}, which no earlier node gives")
            if node.name in known:
                raise ValueError(f"the name '{node.name}' is given twice")
            known.add(node.name)
        if self.output not in known:
            raise ValueError("the output is no node")
        _require_one_form(self.tensors)
        return self

    @cached_property
    def order(self) -> dict[str, int]:
        """When each value is known: 0 for input and tensors, 1 + position for nodes."""
        start = dict.fromkeys((self.input, *self.tensors), 0)
        return start | {node.name: i + 1 for i, node in enumerate(self.nodes)}


def _require_one_form(tensors: dict[str, GraphTensor]) -> None:
    seen: dict[str, GraphTensor] = {}
    for tensor in tensors.values():
        if seen.setdefault(tensor.entry, tensor) != tensor:
            raise ValueError(f"tensor '{tensor.entry}' is used with two shapes or dtypes")


class PointRecord(Record):
    """A place where an activation can be read or replaced: what a named submodule gives.

    Attributes:
        name: of the submodule, such as ``"layer3.0"``.
        node: whose value is the submodule's output.
        form: how its axes are read.
        shape: of one input's activation, without the batch.
        cut: whether every path from the input to the output passes it.
        leading: tokens before those of the image, such as a class token; 0 in the other forms.
    """

    name: PointName
    node: NodeName
    form: Form
    shape: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=3)]
    cut: bool
    leading: Count = 0

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> PointRecord:
        rank = {"map": 3, "grid": 3, "tokens": 2, "vector": 1}[self.form]
        if len(self.shape) != rank:
            raise ValueError(f"point '{self.name}' is a {self.form}, which has {rank} axes beside the batch")
        if self.leading and (self.form != "tokens" or self.leading >= self.shape[0]):
            raise ValueError(f"point '{self.name}' has more leading tokens than tokens")
        return self

    @property
    def channels(self) -> int:
        """The width that an adapter maps."""
        return self.shape[0] if self.form == "map" else self.shape[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of its positions: (1, 1) for a vector; tokens lie in a square where they fill one."""
        if self.form == "vector":
            return (1, 1)
        if self.form == "tokens":
            count = self.shape[0] - self.leading
            side = math.isqrt(count)
            return (side, side) if side * side == count else (1, count)
        height, width = self.shape[1:] if self.form == "map" else self.shape[:2]
        return height, width

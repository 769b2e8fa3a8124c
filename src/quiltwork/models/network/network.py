"""A trained network from data alone: graph, weights and signature; frozen, and open at its points.

    forward(x) = graph((x - mean) / std)
    run(x, want, given) = values at named points, with the activation at other points replaced by ``given``

Building one checks the whole before a real tensor is computed: operators, tensors, shapes and limits (`shapes`), points
and their cuts; then one input of zeros goes through. Nothing here trains: weights are buffers without gradients, but
gradients flow through them to what is given.

>>> graph = Graph(nodes=(GraphNode(name="y", op="linear.default", args=({"node": "x"}, {"node": "w"})),),
...               tensors={"w": GraphTensor(entry="weight", dtype="float32", shape=(1, 2))}, input="x", output="y")
>>> signature = Signature(shape=(2,), units="m", mean=(1.0,), std=(2.0,), outputs=1)
>>> network = Network.from_parts(signature, graph, (), {"weight": torch.tensor([[1.0, 10.0]])})
>>> network(torch.tensor([[3.0, 5.0]]))
tensor([[21.]])
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn

from quiltwork.contribution.canonical import encode, shown
from quiltwork.contribution.network_graph import Graph, GraphNode, GraphTensor, PointRecord, Signature
from quiltwork.errors import InvalidOption, MalformedContribution
from quiltwork.models.network.cuts import cuts
from quiltwork.models.network.execution import MEND, Step, execute, steps_of
from quiltwork.models.network.operators import Value
from quiltwork.models.network.shapes import shape_run
from quiltwork.models.network.weights import cast_weights

__all__ = ["Graph", "GraphNode", "GraphTensor", "Network", "PointRecord", "Signature"]

OUTPUT = "output"
"""What `Network.run` calls the network's output among its points."""


class Network(nn.Module):
    """A captured network. Use `from_parts`, or `capture` on the owner's side.

    Attributes:
        signature: what it takes and gives.
        graph: its operations.
        points: name to record, in the order of computation.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, signature: Signature, graph: Graph, points: Sequence[PointRecord], weights: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.signature, self.graph = signature, graph
        self.points = {point.name: point for point in sorted(points, key=lambda one: graph.order[one.node])}
        self._steps = steps_of(graph)
        self._places = {entry: f"weight_{i}" for i, entry in enumerate(sorted(weights))}
        for entry, place in self._places.items():
            self.register_buffer(place, weights[entry])
        axes = (len(signature.mean), *[1] * (len(signature.shape) - 1))
        self.register_buffer("mean", torch.tensor(signature.mean).reshape(axes), persistent=False)
        self.register_buffer("std", torch.tensor(signature.std).reshape(axes), persistent=False)
        self._admitted: set[int] = set()
        self.eval()

    @classmethod
    def from_parts(
        cls, signature: Signature, graph: Graph, points: Iterable[PointRecord], tensors: Mapping[str, Tensor]
    ) -> Self:
        """A network from what crossed the border.

        Args:
            signature: of inputs and outputs.
            graph: over the closed operators.
            points: names differ.
            tensors: by entry name. Those that the graph does not hold as float32 may come as float64.

        Raises:
            UnsupportedContribution: an operator outside the closed list.
            MalformedContribution: a graph, a point or a weight that breaks its own declaration, or the limits.
            TensorMismatch: tensors missing, too many, or of another shape.
        """
        points = tuple(points)
        steps = steps_of(graph)
        _require_points(graph, steps, points)
        for batch in (2, 3):
            shapes = shape_run(steps, graph, signature, batch, [point.node for point in points])
            _require_shapes(points, shapes, batch)
        network = cls(signature, graph, points, cast_weights(graph, tensors))
        with torch.no_grad():
            network(torch.zeros(1, *signature.shape))
        return network

    def forward(self, x: Tensor) -> Tensor:
        """Outputs float32 ``[n, outputs]`` of raw inputs ``[n, *shape]``: logits, or numbers.

        Raises:
            InvalidOption: inputs of another shape.
        """
        return self.run(x, [OUTPUT])[OUTPUT]

    def run(
        self,
        x: Tensor,
        want: Sequence[str],
        given: Mapping[str, Tensor] | None = None,
        memo: dict[str, Value] | None = None,
    ) -> dict[str, Tensor]:
        """Values at points, computing only what they stand on.

        Args:
            x: raw inputs ``[n, *shape]``.
            want: names of points, or ``"output"``.
            given: activations that replace those at points, ``[n, *point.shape]``.
            memo: values of earlier calls on the same ``x``, by node; used, and added to. What is ``given`` is not put
                into it, so calls that share a memo must give the same upstream of what they share.

        Raises:
            InvalidOption: inputs or activations of another shape, a name that is no point.
        """
        values = self.start(x) | (memo or {})
        replaced = {
            self.node_of(name): self._replacing(name, value, x.shape[0]) for name, value in (given or {}).items()
        }
        nodes = {name: self.node_of(name) for name in want}
        values |= replaced
        before = set(values)
        execute(self._steps, values, nodes.values(), x.device, keep_all=memo is not None)
        if memo is not None:
            memo |= {name: values[name] for name in values.keys() - before}
        return {name: values[node] for name, node in nodes.items()}

    def start(self, x: Tensor) -> dict[str, Value]:
        """What the steps begin with: the tensors, and the normalised input, by node.

        Raises:
            InvalidOption: inputs of another shape.
        """
        self._admit(x)
        values: dict[str, Value] = {name: getattr(self, place) for name, place in self._tensors.items()}
        values[self.graph.input] = (x.to(self.mean.dtype) - self.mean) / self.std
        return values

    def node_of(self, name: str) -> str:
        """The node of a point, or of ``"output"``."""
        return self.graph.output if name == OUTPUT else self.point(name).node

    def point(self, name: str) -> PointRecord:
        """The record of a point.

        Raises:
            InvalidOption: no point has this name.
        """
        if name not in self.points:
            near = difflib.get_close_matches(name, self.points, n=3, cutoff=0.3) or list(self.points)[:3]
            raise InvalidOption(
                f"point {shown(name)}",
                why="the network has no point of this name",
                mend=f"Choose one of its {len(self.points)} points, such as {', '.join(map(repr, near)) or 'none'}.",
            )
        return self.points[name]

    def upstream(self, name: str) -> frozenset[str]:
        """The points whose activation the one at ``name`` stands on, without those of its own node."""
        node = self.node_of(name)
        behind: set[str] = {node}
        for step in reversed(self._steps):
            if step.name in behind:
                behind.update(step.takes)
        return frozenset(point for point, record in self.points.items() if record.node in behind - {node})

    @property
    def steps(self) -> tuple[Step, ...]:
        """The operations, ready to run."""
        return self._steps

    def tensors(self) -> dict[str, Tensor]:
        """The weights by entry name, as they are held."""
        return {entry: getattr(self, place) for entry, place in self._places.items()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Network:
        """The same graph with other weights."""
        return Network.from_parts(self.signature, self.graph, self.points.values(), tensors)

    @cached_property
    def digest(self) -> str:
        """``sha256:`` over signature, graph, points and weights: what this network is called elsewhere."""
        said = {
            "graph": self.graph.model_dump(mode="json"),
            "points": [point.model_dump(mode="json") for point in sorted(self.points.values(), key=lambda p: p.name)],
            "signature": self.signature.model_dump(mode="json"),
        }
        running = hashlib.sha256(encode(said))
        for entry, tensor in sorted(self.tensors().items()):
            running.update(f"{entry}\n".encode())
            running.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return "sha256:" + running.hexdigest()

    @cached_property
    def _tensors(self) -> dict[str, str]:
        return {name: self._places[tensor.entry] for name, tensor in self.graph.tensors.items()}

    def _admit(self, x: Tensor) -> None:
        """Refuse inputs of another shape, and a batch size for which the shape run does not pass."""
        shape = self.signature.shape
        if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape or x.shape[0] == 0:
            raise InvalidOption(
                f"inputs of shape {list(x.shape)}",
                why=f"the network takes [n, {', '.join(map(str, shape))}] with at least one input",
                mend="Bring the inputs to the common size of the task.",
            )
        batch = x.shape[0]
        if isinstance(batch, int) and batch not in self._admitted:
            shape_run(self._steps, self.graph, self.signature, batch)
            self._admitted.add(batch)

    def _replacing(self, name: str, value: Tensor, batch: int) -> Tensor:
        due = (batch, self.signature.outputs) if name == OUTPUT else (batch, *self.point(name).shape)
        if tuple(value.shape) != due:
            raise InvalidOption(
                f"the activation given at '{name}'",
                why=f"its shape is {list(value.shape)}, and {list(due)} is due",
                mend="Give what the point's record declares.",
            )
        return value


def _require_points(graph: Graph, steps: Sequence[Step], points: Sequence[PointRecord]) -> None:
    """Refuse points that name no node, share a name, or declare another cut."""
    true_cuts = cuts(steps, graph.input, graph.output)
    names = [point.name for point in points]
    made = {step.name for step in steps}
    for point in points:
        if point.node not in made:
            raise MalformedContribution(f"point '{point.name}'", why="its node is not in the graph", mend=MEND)
        if point.cut != (point.node in true_cuts):
            raise MalformedContribution(f"point '{point.name}'", why="its cut is not the graph's", mend=MEND)
    if len(set(names)) < len(names) or OUTPUT in names:
        raise MalformedContribution("points of a network", why="names differ, and none is 'output'", mend=MEND)


def _require_shapes(points: Sequence[PointRecord], shapes: Mapping[str, tuple[int, ...]], batch: int) -> None:
    for point in points:
        if shapes[point.node] != (batch, *point.shape):
            why = f"it declares {list(point.shape)} an input, and its node gives {list(shapes[point.node])} for {batch}"
            raise MalformedContribution(f"point '{point.name}'", why=why, mend=MEND)

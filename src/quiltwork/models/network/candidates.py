"""Which points of a network are worth trying: where a layer ends, and where nothing bypasses.

A point is left out

    if some path from the input to the output does not pass it        the bypass would keep the old activation
    if no weight lies before it                                       it holds the input itself, in another shape
    if it only reshapes an earlier point                              it holds the same numbers
    if all that follows it is normalisation, activation or pooling    the end of the same layer comes after that
    if it is the output                                               stitching there is an ensemble

>>> from quiltwork.contribution.network_graph import Graph, GraphNode, GraphTensor, PointRecord, Signature
>>> ref = lambda name: {"node": name}
>>> nodes = [GraphNode(name="flat", op="view.default", args=(ref("x"), [-1, 4])),
...          GraphNode(name="hidden", op="linear.default", args=(ref("flat"), ref("w"))),
...          GraphNode(name="act", op="relu.default", args=(ref("hidden"),)),
...          GraphNode(name="out", op="linear.default", args=(ref("act"), ref("w")))]
>>> graph = Graph(nodes=tuple(nodes), tensors={"w": GraphTensor(entry="w", dtype="float32", shape=(4, 4))},
...               input="x", output="out")
>>> names = ("flat", "hidden", "act", "out")
>>> points = [PointRecord(name=name, node=name, form="vector", shape=(4,), cut=True) for name in names]
>>> import torch
>>> network = Network.from_parts(Signature(shape=(4,), units="m", outputs=4), graph, points, {"w": torch.eye(4)})
>>> stitch_points(network)
['act']
"""

from __future__ import annotations

from quiltwork.models.network.network import Network

PASSING = frozenset(
    (
        "_native_batch_norm_legit_no_training.default",
        "adaptive_avg_pool2d.default",
        "avg_pool2d.default",
        "clamp.default",
        "elu.default",
        "gelu.default",
        "gelu.tanh",
        "group_norm.default",
        "hardswish.default",
        "hardtanh.default",
        "layer_norm.default",
        "leaky_relu.default",
        "max_pool2d.default",
        "mean.dim",
        "relu.default",
        "silu.default",
        "tanh.default",
    )
)
"""Operators that end a layer rather than begin one."""

RESHAPING = frozenset(
    (
        "alias.default",
        "clone.default",
        "permute.default",
        "squeeze.dims",
        "unsqueeze.default",
        "view.default",
    )
)
"""Operators that give the numbers they take."""


def stitch_points(network: Network) -> list[str]:
    """Names of the points, by depth."""
    weighted, followers, origins = _after_weights(network), _followers(network), _origins(network)
    held = {point.node for point in network.points.values() if point.cut}
    # submodules that hand on one value are one point, the last of them named
    found = {
        point.node: name
        for name, point in network.points.items()
        if point.cut
        and point.node in weighted
        and not origins.get(point.node, set()) & held
        and not followers.get(point.node, {"none"}) <= PASSING
    }
    found.pop(network.graph.output, None)
    return list(found.values())


def _followers(network: Network) -> dict[str, set[str]]:
    """For each value the operators that take it, in whatever shape."""
    found: dict[str, set[str]] = {}
    for step in reversed(network.steps):
        if step.op == "size.int":
            continue
        own = found.get(step.name, set()) if step.op in RESHAPING else {step.op}
        for name in step.takes:
            found.setdefault(name, set()).update(own)
    return found


def _origins(network: Network) -> dict[str, set[str]]:
    """For each value that only reshapes others, those others."""
    found: dict[str, set[str]] = {}
    for step in network.steps:
        if step.op in RESHAPING:
            found[step.name] = {*step.takes}.union(*(found.get(name, set()) for name in step.takes))
    return found


def _after_weights(network: Network) -> set[str]:
    """Nodes that stand on a weight."""
    known = set(network.graph.tensors)
    for step in network.steps:
        if known.intersection(step.takes):
            known.add(step.name)
    return known

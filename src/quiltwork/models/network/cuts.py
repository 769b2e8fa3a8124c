"""Cuts: the nodes that every path from the input to the output passes.

Among the nodes that lie on some path, in their order of computation, a node is a cut if and only if no edge jumps over
it: a path that avoids it would have to.

    v is a cut   <=>   no edge (a, b) with a < v < b,   a, b on a path from input to output

Replacing the activation at a cut replaces all that the tail knows of the input. An edge that carries only a shape, such
as the batch size, says nothing of the input and does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

from quiltwork.models.network.execution import Step

_SHAPE_ONLY = ("full_like.default", "size.int")


def cuts(steps: Sequence[Step], start: str, end: str) -> frozenset[str]:
    """Names of the steps that are cuts, ``end`` among them."""
    edges = [(taken, step.name) for step in steps if step.op not in _SHAPE_ONLY for taken in step.takes]
    ahead, behind = {start}, {end}
    for a, b in edges:
        if a in ahead:
            ahead.add(b)
    for a, b in reversed(edges):
        if b in behind:
            behind.add(a)
    on_path = [start, *(step.name for step in steps if step.name in ahead & behind)]
    place = {name: i for i, name in enumerate(on_path)}
    jumped = [0] * (len(place) + 1)
    for a, b in edges:
        if a in place and b in place:
            jumped[place[a] + 1] += 1
            jumped[place[b]] -= 1
    found, over = set(), 0
    for name, i in place.items():
        over += jumped[i]
        if over == 0 and name != start:
            found.add(name)
    return frozenset(found)

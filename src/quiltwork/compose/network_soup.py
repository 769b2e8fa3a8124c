"""Soup of networks: one network whose weights are the mean of the parties'.

    theta = sum_i w_i theta_i / sum_i w_i

for networks of one graph and one normalisation (model soups, arXiv 2203.05482). Trained apart from different starts,
networks do not lie in one valley and their mean is worse than any of them; the method is here for networks tuned from
one start, and as the line that others are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quiltwork.compose.networks import Member, NetworkSolution, TaskReference
from quiltwork.compose.shares import shares
from quiltwork.errors import TensorMismatch
from quiltwork.models.network.network import Network


@dataclass(frozen=True)
class NetworkSoup:
    """Mean of weights.

    Attributes:
        weights: share of a party before normalisation; one unless stated.
    """

    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``network_soup``."""
        return "network_soup"

    def needs(self) -> frozenset[str]:
        """A module of each party."""
        return frozenset({"module"})

    def uses(self) -> frozenset[str]:
        """Nothing else."""
        return frozenset()

    def build(self, task: TaskReference, members: Sequence[Member]) -> NetworkSolution:  # noqa: ARG002
        """The mean, summed in float64 by party and rounded once.

        Raises:
            TensorMismatch: the networks are not of one graph, or differ in a constant.
            InvalidOption: a weight is of nobody, or not positive.
        """
        weights = shares([member.party for member in members], self.weights)
        first = members[0].network
        for member in members[1:]:
            _require_same_graph(first, member, members[0].party)
        tables = [member.network.tensors() for member in members]
        tensors = {name: _mean(name, [table[name] for table in tables], weights) for name in tables[0]}
        return NetworkSolution(
            first.with_tensors(tensors),
            figures={"weights": dict(zip([m.party for m in members], weights, strict=True))},
        )


def _mean(name: str, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    if tensors[0].is_floating_point():
        total = sum(w * tensor.double() for w, tensor in zip(weights, tensors, strict=True))
        return torch.as_tensor(total).to(tensors[0].dtype)
    if any(not torch.equal(tensors[0], other) for other in tensors[1:]):
        raise TensorMismatch(
            f"tensor '{name}'",
            why="it holds whole numbers that differ between the parties, and they have no mean",
            mend="Use Combine, which leaves every network as it is.",
        )
    return tensors[0]


def _require_same_graph(first: Network, member: Member, one: str) -> None:
    other = member.network
    for what in ("graph", "signature"):
        if getattr(first, what) != getattr(other, what):
            raise TensorMismatch(
                f"the module of party '{member.party}'",
                why=f"its {what} is another than that of party '{one}', so weights do not correspond",
                mend="Use Combine or Stitch, which take networks of different architectures.",
            )

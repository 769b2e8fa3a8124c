"""The embedding as a module: raw inputs in, the space of the parties' summaries out.

    identity    x -> x flattened
    random      x -> x P / sqrt(D)              the matrix of `evidence.embedding.projection`
    module      x -> the activation of a public network at a point, averaged over its grid

float64 throughout, so that densities computed here equal those of `evidence` (NumPy) to rounding. Nothing is trained,
and everything exports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from quiltwork.errors import InvalidOption
from quiltwork.evidence.embedding import Embedding, IdentityEmbedding, ModuleEmbedding, RandomEmbedding, projection
from quiltwork.models.network.network import Network

_POSITIONS: Mapping[str, tuple[int, ...] | None] = {"map": (2, 3), "grid": (1, 2), "tokens": (1,), "vector": None}
"""The axes of positions in each form of a point, the batch being axis 0."""


class Flat(nn.Module):
    """The identity embedding."""

    def forward(self, x: Tensor) -> Tensor:
        """Raw ``[n, *shape]`` to float64 ``[n, D]``."""
        return x.flatten(1).double()


class Projected(nn.Module):
    """Random projections.

    Args:
        spec: dimension and seed.
        shape: of one raw input.
    """

    matrix: Tensor

    def __init__(self, spec: RandomEmbedding, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.from_numpy(projection(spec, math.prod(shape)).copy()))

    def forward(self, x: Tensor) -> Tensor:
        """Raw ``[n, *shape]`` to float64 ``[n, d]``."""
        return x.flatten(1).double() @ self.matrix


class PointFeatures(nn.Module):
    """A network's activation at a point, averaged over the positions that it has; a class token counts as one.

    Args:
        network: loaded and frozen.
        point: a name among its points.
    """

    def __init__(self, network: Network, point: str) -> None:
        super().__init__()
        self.network = network
        self.point = point

    def forward(self, x: Tensor) -> Tensor:
        """Raw ``[n, *shape]`` to float64 ``[n, channels]``."""
        value = self.network.run(x, [self.point])[self.point].double()
        return value if (axes := _POSITIONS[self.network.point(self.point).form]) is None else value.mean(dim=axes)


def embedder(spec: Embedding, shape: Sequence[int], network: Network | None = None) -> nn.Module:
    """The module that embeds raw inputs of ``shape`` as ``spec`` says.

    Args:
        spec: the embedding that the parties declared.
        shape: of one raw input.
        network: for a module's features: that module's `Network`.

    Raises:
        InvalidOption: the module is missing, is another one, or has no such point.
    """
    if isinstance(spec, IdentityEmbedding):
        return Flat()
    if isinstance(spec, RandomEmbedding):
        return Projected(spec, shape)
    return _features(spec, network)


def _features(spec: ModuleEmbedding, network: Network | None) -> PointFeatures:
    name = f"embedding by the module of party '{spec.party}'"
    if network is None or network.digest != spec.digest:
        why = "it is not given" if network is None else "the network given is another one"
        raise InvalidOption(name, why=why, mend=f"Add the contribution whose network is {spec.digest[:19]}….")
    if spec.point not in network.points:
        raise InvalidOption(name, why=f"that network has no point {spec.point!r}", mend="Name one of its points.")
    if (channels := network.point(spec.point).channels) != spec.dimension:
        why = f"it declares {spec.dimension} dimensions, and {spec.point!r} has {channels} channels"
        raise InvalidOption(name, why=why, mend="Summarise the inputs again by that module.")
    return PointFeatures(network, spec.point)

"""The embedding as a module: raw inputs in, the space of the parties' summaries out.

    identity    x -> x flattened
    random      x -> x P / sqrt(D)              the matrix of `evidence.embedding.projection`
    module      x -> the activation of a public network at a point, averaged over its grid

float64 throughout, so that densities computed here equal those of `evidence` (NumPy) to rounding. Nothing is trained,
and everything exports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from quiltwork.errors import InvalidOption
from quiltwork.evidence.embedding import Embedding, IdentityEmbedding, ModuleEmbedding, RandomEmbedding, projection


class Runs(Protocol):
    """What is asked of a network: its values at named points."""

    def run(self, x: Tensor, want: Sequence[str]) -> dict[str, Tensor]:
        """The activations at ``want`` for raw inputs ``x``."""
        ...


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
    """A network's activation at a point, averaged over the grid where it has one.

    Args:
        network: a loaded network, frozen.
        point: a name among its points.
        form: ``map`` [n, c, h, w], ``tokens`` [n, t, c] or ``vector`` [n, c].
    """

    def __init__(self, network: nn.Module, point: str, form: str) -> None:
        super().__init__()
        self.network = network
        self.point = point
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        """Raw ``[n, *shape]`` to float64 ``[n, c]``."""
        network: Runs = self.network  # type: ignore[assignment]  # nn.Module tells nothing of its methods
        value = network.run(x, [self.point])[self.point].double()
        if self.form == "map":
            return value.mean(dim=(2, 3))
        return value.mean(dim=1) if self.form == "tokens" else value


def embedder(spec: Embedding, shape: Sequence[int], network: nn.Module | None = None) -> nn.Module:
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


def _features(spec: ModuleEmbedding, network: nn.Module | None) -> PointFeatures:
    name = f"embedding by the module of party '{spec.party}'"
    if network is None or getattr(network, "digest", None) != spec.digest:
        why = "it is not given" if network is None else "the network given is another one"
        raise InvalidOption(name, why=why, mend=f"Add the contribution whose network is {spec.digest[:19]}….")
    point = network.points.get(spec.point)  # type: ignore[operator, union-attr]  # Network.points is a mapping
    if point is None:
        raise InvalidOption(name, why=f"that network has no point {spec.point!r}", mend="Name one of its points.")
    channels = point.shape[1] if point.form == "tokens" else point.shape[0]
    if channels != spec.dimension:
        why = f"it declares {spec.dimension} dimensions, and {spec.point!r} has {channels} channels"
        raise InvalidOption(name, why=why, mend="Summarise the inputs again by that module.")
    return PointFeatures(network, spec.point, point.form)

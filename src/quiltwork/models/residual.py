"""First and second moments of the residual stream, as each layer's feed-forward block receives it.

Taken at the very tensor that a router of that layer would read (in post-norm families the residual stream itself, in
pre-norm families its normalised form), so that whoever computes router rows from moments computes them in the right
space. Sums are float64 and additive over batches: mean = S1 / n, covariance = S2 / n - mean mean'.

An owner takes them of its fragment and declares them; a composer takes them of public text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from quiltwork.models.sources import Source

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Second = Literal["full", "diagonal"]


@dataclass(frozen=True)
class ResidualMoments:
    """Moments of every layer's feed-forward input, layer by layer.

    Attributes:
        means: ``[H]`` each.
        seconds: covariances ``[H, H]`` or variances ``[H]``.
        rows: number of token positions that they average over.
    """

    means: list[Source]
    seconds: list[Source]
    rows: int

    @classmethod
    def of(cls, tensors: Mapping[str, Source], rows: int, *, prefix: str = "") -> ResidualMoments:
        """From tensors ``{prefix}moments.layers.{l}.mean`` and ``.second``."""
        layers = sum(name.startswith(f"{prefix}moments.") and name.endswith(".mean") for name in tensors)
        names = [f"{prefix}moments.layers.{layer}." for layer in range(layers)]
        return cls([tensors[n + "mean"] for n in names], [tensors[n + "second"] for n in names], rows)

    def tensors(self) -> dict[str, Source]:
        """The same by name."""
        named = {f"moments.layers.{n}.mean": source for n, source in enumerate(self.means)}
        return named | {f"moments.layers.{n}.second": source for n, source in enumerate(self.seconds)}


class _Sums:
    """Running count and sums of one layer's inputs."""

    def __init__(self, hidden: int, second: Second) -> None:
        import torch

        self._second = second
        self.count = 0
        self.first = torch.zeros(hidden, dtype=torch.float64)
        shape = (hidden, hidden) if second == "full" else (hidden,)
        self.square = torch.zeros(shape, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1]).cpu().double()
        self.count += len(rows)
        self.first += rows.sum(dim=0)
        self.square += rows.T @ rows if self._second == "full" else rows.square().sum(dim=0)

    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.first / self.count
        if self._second == "full":
            covariance = self.square / self.count - mean[:, None] * mean
            return mean, (covariance + covariance.T) / 2
        return mean, (self.square / self.count - mean.square()).clamp(min=0)


@contextmanager
def feed_forward_inputs(model: PreTrainedModel, take: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While entered, ``take(layer, x)`` gets every input ``[batch, tokens, H]`` of a layer's feed-forward block."""
    layers: Any = model.model.layers
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, inputs, n=number: take(n, inputs[0]))
        for number, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def residual_moments(
    model: PreTrainedModel, batches: Iterable[np.ndarray], *, second: Second
) -> tuple[dict[str, Tensor], int]:
    """Moments of every layer's feed-forward input over ``batches``.

    Args:
        model: the base model, in evaluation mode.
        batches: int64 arrays ``[batch, tokens]``.
        second: ``"full"`` covariances ``[H, H]`` or their ``"diagonal"`` ``[H]``.

    Returns:
        ``moments.layers.{l}.mean`` ``[H]`` and ``.second``, float32; and the number of rows (tokens) they average.
    """
    import torch

    sums = [_Sums(model.config.hidden_size, second) for _ in range(model.config.num_hidden_layers)]
    with torch.no_grad(), feed_forward_inputs(model, lambda layer, x: sums[layer].add(x)):
        for batch in batches:
            model(input_ids=torch.from_numpy(batch).to(model.device), use_cache=False)
    tensors: dict[str, Tensor] = {}
    for number, s in enumerate(sums):
        mean, square = s.moments()
        tensors[f"moments.layers.{number}.mean"] = mean.float()
        tensors[f"moments.layers.{number}.second"] = square.float()
    return tensors, sums[0].count

"""First and second moments of the residual stream, as each layer's feed-forward block receives it.

Taken at the very tensor that a router of that layer would read (in post-norm families the residual stream itself, in
pre-norm families its normalised form), so that whoever computes router rows from moments computes them in the right
space. Sums are float64 and additive over batches: mean = S1 / n, covariance = S2 / n - mean mean'.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Second = Literal["full", "diagonal"]


class _Sums:
    """Running count and sums of one layer's inputs."""

    def __init__(self, hidden: int, second: Second) -> None:
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
            covariance = self.square / self.count - torch.outer(mean, mean)
            return mean, (covariance + covariance.T) / 2
        return mean, (self.square / self.count - mean.square()).clamp(min=0)


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
    layers: Any = model.model.layers
    sums = [_Sums(model.config.hidden_size, second) for _ in layers]
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, inputs, s=s: s.add(inputs[0]))
        for layer, s in zip(layers, sums, strict=True)
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                model(input_ids=torch.from_numpy(batch).to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    tensors: dict[str, Tensor] = {}
    for number, s in enumerate(sums):
        mean, square = s.moments()
        tensors[f"moments.layers.{number}.mean"] = mean.float()
        tensors[f"moments.layers.{number}.second"] = square.float()
    return tensors, sums[0].count

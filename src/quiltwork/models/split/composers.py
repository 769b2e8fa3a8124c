"""Modules that components and composers are made of; any other PyTorch module will do as well.

A composer takes the list of the parties' activations, sorted by party, and gives logits ``[b, k]``:

    Concatenated(g)   g([h_1, ..., h_n])
    Summed(g)         g(h_1 + ... + h_n)     all widths equal; the form that a secure sum can serve

>>> composer = Concatenated(nn.Identity())
>>> composer([torch.ones(2, 1), torch.zeros(2, 3)]).shape
torch.Size([2, 4])
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Concatenated(nn.Module):
    """A composer that sees the activations side by side.

    Args:
        body: maps ``[b, d_1 + ... + d_n]`` to ``[b, k]``.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, activations: Sequence[Tensor]) -> Tensor:
        """Logits ``[b, k]``."""
        return self.body(torch.cat(list(activations), dim=1))  # type: ignore[no-any-return]


class Summed(nn.Module):
    """A composer that sees the sum of the activations.

    Args:
        body: maps ``[b, d]`` to ``[b, k]``.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, activations: Sequence[Tensor]) -> Tensor:
        """Logits ``[b, k]``; the sum is taken from left to right."""
        total = activations[0]
        for activation in activations[1:]:
            total = total + activation
        return self.body(total)  # type: ignore[no-any-return]


class Standardised(nn.Module):
    """Columns less their mean, over their standard deviation, as a party's own first layer.

    Args:
        rows: float ``[n, p]`` of the party's own fragment; a column that is constant is only centred.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        deviation = rows.std(dim=0, correction=0)
        self.register_buffer("mean", rows.mean(dim=0))
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def forward(self, rows: Tensor) -> Tensor:
        """Standardised columns ``[b, p]``."""
        return (rows - self.mean) / self.deviation


def mlp(inputs: int, outputs: int, hidden: Sequence[int] = (32,)) -> nn.Sequential:
    """Linear layers with rectifiers between them; no hidden sizes give a linear map."""
    sizes = (inputs, *hidden)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

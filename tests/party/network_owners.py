"""Two owners with small networks over the same digits, and labelled inputs for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from quiltwork.contribution.network_graph import Signature
from quiltwork.party.examples import Examples

CLASSES = ("circle", "square", "star")
SIGNATURE = Signature(shape=(1, 6, 6), units="0..1", mean=(0.5,), std=(0.25,), classes=CLASSES, outputs=3)


class Small(nn.Module):
    """A convolution, a normalisation and a head; ``width`` tells owners apart."""

    def __init__(self, width: int = 4, outputs: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(2 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(self.stem(x)).relu().mean(dim=(2, 3))))


def small(width: int = 4, seed: int = 0, outputs: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    module = Small(width, outputs)
    with torch.no_grad():
        module(torch.randn(64, 1, 6, 6))  # so that the running statistics are not those of nothing
    return module.eval()


def inputs(n: int = 120, seed: int = 0, classes: tuple[str, ...] | None = CLASSES) -> Examples:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    pixels = rng.random((n, 1, 6, 6)) * 0.5 + labels[:, None, None, None] * 0.2
    if classes is None:
        return Examples(f"table {seed}", pixels, "0..1", rng.random((n, 3)).astype(np.float32))
    return Examples(f"table {seed}", pixels, "0..1", labels.astype(np.int64), classes)

"""Two small networks of different architecture, published, and images that both take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from quiltwork.contribution.network_graph import Signature
from quiltwork.contribution.networks import ModuleMethod, TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.models.network.capture import capture
from quiltwork.models.network.network import Network
from quiltwork.party.examples import Examples
from quiltwork.privacy.events import ExactEvent

SHAPE = (1, 8, 8)
CLASSES = ("round", "square", "long")


def signature(**changes) -> Signature:
    fields = {"shape": SHAPE, "units": "0..1", "mean": (0.5,), "std": (0.25,), "classes": CLASSES, "outputs": 3}
    return Signature(**fields | changes)


def cnn(seed=0, widths=(6, 8, 8)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers, before = [], 1
    for depth, width in enumerate(widths):
        block = [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.Sequential(*block, *([nn.MaxPool2d(2)] if depth == 1 else [])))
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 3)).eval()


def mlp(seed=1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 3)
    ).eval()


def images(count=600, seed=0) -> Examples:
    """Images of three kinds with noise, in an order of no meaning."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    grid = np.mgrid[0:8, 0:8] - 3.5
    kinds = np.stack(((grid**2).sum(0) < 9, np.abs(grid).max(0) < 3, np.abs(grid[0]) < 1.2)).astype(float)
    values = np.clip(kinds[labels] * rng.uniform(0.4, 0.9, (count, 1, 1)) + rng.uniform(0, 0.4, (count, 8, 8)), 0, 1)
    return Examples("images in memory", values[:, None].astype(np.float32), "0..1", labels, CLASSES)


def captured(module: nn.Module, **changes) -> Network:
    return capture(module, torch.from_numpy(images(16, 9).inputs(0, 16)), signature=signature(**changes))


def published(network: Network, party: str, folder: Path) -> Contribution:
    """A contribution that holds the network."""
    method = ModuleMethod(
        network=network.digest,
        signature=network.signature,
        graph=network.graph,
        points=tuple(network.points.values()),
    )
    tensors = {f"module.{name}": tensor for name, tensor in network.tensors().items()}
    draft = Draft(
        party=party,
        method=method,
        tensors={n: t if t.is_floating_point() else t.double() for n, t in tensors.items()},
        licence="CC0-1.0",
        task=TaskReference.of(network.signature),
        privacy=[ExactEvent(released="module", unit="row")],
    )
    return write(folder / party, draft)

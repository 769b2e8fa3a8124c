"""Owners who trained apart publish their networks, anyone joins them, an owner leaves.

    python examples/join_networks.py OUT

Three owners have images of the same digits under a look of their own, and networks of different architectures, trained
long ago. Each publishes its network and one small summary of its inputs. Whoever composes weighs the networks, for each
image, by whose inputs it is like. Nobody retrains, and no image moves.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from quiltwork.compose.combine import Combine
from quiltwork.compose.method import compose
from quiltwork.composite import NetworkComposite
from quiltwork.contribution.network_graph import Signature
from quiltwork.contribution.sealed import Contribution
from quiltwork.datasets.looks import CLASSES, Site, sites
from quiltwork.party.examples import Examples
from quiltwork.party.input_moments import MomentsOrder
from quiltwork.party.module import ModuleOrder, contribute_module

LOOKS = {"ash": "plain", "birch": "negative", "cedar": "turned"}


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(32 * 16, len(CLASSES))),
    )


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, len(CLASSES)))


class Attending(nn.Module):
    """Rows of an image as tokens, one layer of attention."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.rows = nn.Linear(8, width)
        self.place = nn.Parameter(torch.zeros(8, width))
        self.layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8 * width, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.rows(x.squeeze(1)) + self.place).flatten(1))


NETWORKS = {"ash": convolutional, "birch": dense, "cedar": Attending}


def main(out: str, steps: int = 250) -> None:
    places = sites(LOOKS)
    released = {owner: publish(owner, site, Path(out) / owner, steps) for owner, site in places.items()}
    joined = compose(list(released.values()), Combine(weights="evidence"))
    plain = compose(list(released.values()), Combine())
    joined.save(Path(out) / "joined")
    print(f"three owners sent {sum(one.bytes for one in released.values())} bytes and no image")
    for owner, site in places.items():
        own = compose([released[owner]], Combine())
        print(f"{owner}: own {right(own, site):.3f}, mean {right(plain, site):.3f}, joined {right(joined, site):.3f}")
    rest = joined.without("cedar")
    rest.save(Path(out) / "without-cedar")
    print("without cedar: " + ", ".join(f"{owner} {right(rest, site):.3f}" for owner, site in places.items()))
    print(f"exported {export(joined, Path(out)).name}")


def publish(owner: str, site: Site, target: Path, steps: int) -> Contribution:
    """What happens at an owner: its network leaves as data, its images as a Gaussian of 40 random projections."""
    signature = Signature(shape=(1, 8, 8), units="0..1", mean=(0.5,), std=(0.5,), classes=CLASSES, outputs=10)
    images = Examples(f"images of {owner}", site.train, "0..1", site.train_labels, CLASSES)
    order = ModuleOrder(owner, moments=MomentsOrder(inputs=1))
    return contribute_module(trained(owner, site, steps), signature, target, order, examples=images)


def trained(owner: str, site: Site, steps: int) -> nn.Module:
    """A network that the owner trained on its own images alone."""
    torch.manual_seed(sorted(LOOKS).index(owner))
    module, rng = NETWORKS[owner](), np.random.default_rng(0)
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = rng.integers(0, len(site.train), 64)
        x, y = torch.from_numpy((site.train[rows] - 0.5) / 0.5), torch.from_numpy(site.train_labels[rows])
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimiser.step()
    return module.eval()


def right(composite: NetworkComposite, site: Site) -> float:
    return float(np.mean(composite.predict(site.test) == np.asarray(CLASSES)[site.test_labels]))


def export(composite: NetworkComposite, out: Path) -> Path:
    """ONNX where its library is there, else torch's own format: weights of evidence are inside."""
    form = "onnx" if importlib.util.find_spec("onnxscript") else "pt2"
    target = out / f"joined.{form}"
    composite.export(target, form)
    return target


if __name__ == "__main__":
    main(*sys.argv[1:])

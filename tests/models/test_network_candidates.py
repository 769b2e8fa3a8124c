"""Default points: ends of layers that nothing bypasses."""

from __future__ import annotations

import torch
from torch import nn

from quiltwork.contribution.network_graph import Signature
from quiltwork.models.network.candidates import stitch_points
from quiltwork.models.network.capture import capture


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.norm(self.first(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Sequential(Residual(4), Residual(4))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def test_only_the_ends_of_layers_that_every_path_passes():
    torch.manual_seed(0)
    signature = Signature(shape=(1, 8, 8), units="0..1", outputs=3)
    network = capture(Net().eval(), torch.rand(4, 1, 8, 8), signature=signature)
    found = stitch_points(network)
    assert [n for n in found if n.startswith("stem")] in (["stem"], ["stem.3"])
    assert [n for n in found if n.startswith("body")] == ["body.0"]
    assert [n for n in found if n.startswith("head")] == ["head.0", "head.3"]
    assert all("norm" not in name and "first" not in name for name in found)
    assert all(network.points[name].cut for name in found)


def test_the_input_in_another_shape_is_no_candidate():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    network = capture(module, torch.rand(4, 1, 2, 2), signature=Signature(shape=(1, 2, 2), units="0..1", outputs=2))
    assert stitch_points(network) == ["2"]


def test_a_map_is_kept_rather_than_its_flattening():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Dropout(), nn.Linear(48, 2))
    example = torch.rand(4, 1, 6, 6)
    network = capture(module.eval(), example, signature=Signature(shape=(1, 6, 6), units="0..1", outputs=2))
    assert [network.points[name].shape for name in stitch_points(network)] == [(3, 4, 4)]

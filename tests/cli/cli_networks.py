"""Two owners' files: a script that builds a network, its weights, and labelled pixels of three shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

CLASSES = "bar,ring,dot"

SCRIPT = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(WIDTH, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()

def training():
    return build().train()
"""


def pixels(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``[n, 6, 6]`` in 0..1 and labels: bars, rings and dots with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    shapes = np.zeros((3, 6, 6))
    shapes[0, :, 2:4] = shapes[1, 1:5, 1:5] = shapes[2, 2:4, 2:4] = 0.7
    shapes[1, 2:4, 2:4] = 0.0
    return np.clip(shapes[labels] + rng.uniform(0, 0.3, (n, 6, 6)), 0, 1), labels


def write_owner(place: Path, width: int, seed: int, rows: int = 300) -> Path:
    """``model.py``, ``weights.safetensors``, ``data.npz`` and ``kept.npz`` below ``place``."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.py").write_text(SCRIPT.replace("WIDTH", str(width)))
    for name, n, offset in (("data", rows, 0), ("kept", 90, 100)):
        inputs, labels = pixels(n, seed + offset)
        np.savez(place / f"{name}.npz", inputs=inputs, labels=np.array(CLASSES.split(","))[labels])
    save_file(_trained(place / "model.py", *pixels(rows, seed)), place / "weights.safetensors")
    return place


def _trained(script: Path, inputs: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    space: dict[str, object] = {}
    exec(script.read_text(), space)
    module: nn.Module = space["training"]()  # type: ignore[operator]
    x, y = torch.from_numpy(inputs[:, None]).float(), torch.from_numpy(labels)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module((x - 0.5) / 0.25), y).backward()
        optimiser.step()
    return {name: tensor for name, tensor in module.state_dict().items() if "num_batches" not in name}


def module_command(owner: Path, party: str, out: Path, *more: object) -> tuple[object, ...]:
    """``contribute module`` with everything that it needs."""
    return (
        "contribute", "module", "--module", f"{owner}/model.py:build", "--weights", owner / "weights.safetensors",
        "--shape", "1,6,6", "--units", "0..1", "--mean", "0.5", "--std", "0.25", "--classes", CLASSES,
        "--party", party, "--out", out, *more,
    )  # fmt: skip

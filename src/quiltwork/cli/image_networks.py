"""Three small networks for images of 8 x 8 pixels, as owners might have written them: this file is put next to each
owner's data in ``quiltwork demo images``, and stands for code of their own. It needs torch alone."""

from __future__ import annotations

from torch import Tensor, nn

CLASSES = 10


def cnn() -> nn.Module:
    """Convolutions one after the other."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(24, 32, 3, padding=1), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(32 * 16, 48),
        nn.ReLU(),
        nn.Linear(48, CLASSES),
    ).eval()


class Block(nn.Module):
    """Two convolutions with normalisation, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[n, width, h, w]`` to maps."""
        found: Tensor = (x + self.body(x)).relu()
        return found


def residual() -> nn.Module:
    """A residual network."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        Block(16),
        nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        Block(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    ).eval()


class Mixing(nn.Module):
    """One layer over places, one over channels (the mixer's block)."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places = nn.Sequential(nn.Linear(tokens, 32), nn.GELU(), nn.Linear(32, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[n, tokens, width]`` to tokens."""
        x = x + self.places(self.first(x).transpose(1, 2)).transpose(1, 2)
        found: Tensor = x + self.channels(self.second(x))
        return found


class Mixer(nn.Module):
    """Patches of 2 x 2 pixels as tokens, mixed."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.blocks = nn.ModuleList([Mixing(width, 16) for _ in range(3)])
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, 1, 8, 8]`` to logits ``[n, 10]``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        found: Tensor = self.head(tokens.mean(dim=1))
        return found


def mixer() -> nn.Module:
    """A small mixer."""
    return Mixer().eval()

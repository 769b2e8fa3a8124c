"""Small networks of every family that owners train: what the tests of networks capture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quiltwork.contribution.network_graph import Signature
from quiltwork.models.network.capture import capture
from quiltwork.models.network.network import Network

CLASSES = ("a", "b", "c", "d", "e")
SHAPE = (3, 8, 8)


def signature(shape: tuple[int, ...] = SHAPE, **fields: object) -> Signature:
    given = {"units": "0..1", "mean": (0.5,), "std": (0.25,), "classes": CLASSES, "outputs": 5} | fields
    return Signature(shape=shape, **given)  # type: ignore[arg-type]


class Cnn(nn.Module):
    """Plain: every layer is a cut. ReLU in place, as is common."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x).mean(dim=(2, 3))))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.norm(self.first(x))))


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block1, self.block2 = Block(width), Block(width)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.block2(self.block1(F.relu(self.stem(x))))).flatten(1))


class Mixer(nn.Module):
    """Tokens without a class token."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(16, 20), nn.GELU(approximate="tanh"), nn.Linear(20, 16))
        self.within = nn.Sequential(nn.Linear(width, 20), nn.SiLU(), nn.Linear(20, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = t + self.across(self.norm1(t).transpose(1, 2)).transpose(1, 2)
        t = t + self.within(self.norm2(t))
        return self.head(t.mean(dim=1))


class Vit(nn.Module):
    """A class token, positions, two encoder layers of torch itself."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.1 * torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, 2, 24, batch_first=True, norm_first=True, activation="gelu")
        self.layers = nn.ModuleList([layer, nn.TransformerEncoderLayer(width, 2, 24, batch_first=True)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.token.expand(len(t), -1, -1), t], dim=1) + self.positions
        for layer in self.layers:
            t = layer(t)
        return self.head(self.norm(t)[:, 0])


class ChannelsLast(nn.Module):
    """Maps [n, h, w, d] between linear layers, as in some vision transformers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.lift, self.mix, self.head = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.lift(x.permute(0, 2, 3, 1)))
        return self.head((h + torch.einsum("nhwd,de->nhwe", h, self.mix.weight)).mean(dim=(1, 2)))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(192, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.elu(self.norm(self.hidden(x.flatten(1)))))


class Assorted(nn.Module):
    """Operators that are in few of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deconv = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ConvTranspose2d(8, 8, 2, 2)
        self.norm, self.instance = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)
        self.slope, self.head = nn.PReLU(), nn.Linear(4, 5)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.instance(F.silu(self.norm(self.conv(x))))
        h = F.interpolate(F.max_pool2d(h, 2), scale_factor=2, mode="bilinear")
        h = F.avg_pool2d(self.slope(self.deconv(F.interpolate(h, size=(8, 8), mode="nearest"))), 2)
        h = F.hardswish(h) + F.softplus(h) + F.leaky_relu(h) + F.mish(h) + F.relu6(h) + F.hardsigmoid(h)
        h = F.pad(F.pad(h, (1, 1, 1, 1)), (1, 1, 1, 1), mode="reflect")
        a, b = torch.cat([h, h.flip(-1)], dim=1).chunk(2, dim=1)
        h = F.normalize(F.adaptive_avg_pool2d(a * torch.sigmoid(b), 4), dim=1).roll(1, dims=-1)
        h = F.pixel_shuffle(torch.cat([h, h], dim=1), 2)
        t = h.flatten(2)[..., :16]
        t = self.attention(t, t, t, need_weights=False)[0]
        h = torch.where(t > 0, t, 0.1 * t).clamp(-1, 1).amax(dim=-1)
        return F.log_softmax(self.head(h), dim=-1)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "cnn": Cnn,
    "residual": Residual,
    "mixer": Mixer,
    "vit": Vit,
    "channels_last": ChannelsLast,
    "mlp": Mlp,
    "assorted": Assorted,
}


def made(name: str, seed: int = 0) -> nn.Module:
    """A module with parameters and running statistics that are not the initial ones, in evaluation mode."""
    torch.manual_seed(seed)
    module = MODULES[name]()
    for one in module.modules():
        if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d)):
            one.running_mean.normal_(0, 0.3)
            one.running_var.uniform_(0.5, 2)
    return module.eval()


def inputs(rows: int, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(seed))


@cache
def captured(name: str, seed: int = 0, points: tuple[str, ...] | None = None) -> Network:
    return capture(made(name, seed), inputs(4), signature=signature(), points=points)


def output(module: nn.Module, x: Tensor) -> Tensor:
    """What an eager module gives for raw inputs."""
    with torch.no_grad():
        found = module((x - 0.5) / 0.25)
    return found if isinstance(found, Tensor) else found.logits
